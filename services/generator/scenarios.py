"""The walks that memory is judged by: a part that is shown from the true renderer, and a part that is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import atan2, cos, degrees, hypot, radians, sin

import numpy as np

from pocket.rooms import RADIUS, SIDE, TEST_SEEDS, Rooms, build, clearance, free_place, slide
from services.generator.recording import Rule
from services.generator.scenes import rooms_seed
from worldkv.actions import Action, Walker, follow, parse_path
from worldkv.errors import InvalidInput
from worldkv.recorded import RecordedWalk

TURN_A_FRAME = 9.0
STEP_A_FRAME = 0.25


@dataclass(frozen=True)
class Scenario:
    """A walk in one world.

    name, seed  which walk, and which world and start
    rooms       the world
    start       where it begins
    actions     one a latent frame, after the first
    shown       latent frames, from the first, that are shown; the rest is generated; a multiple of 3
    rule        what counts as looking again
    """

    name: str
    seed: int
    rooms: Rooms
    start: Walker
    actions: tuple[Action, ...]
    shown: int
    rule: Rule = "view"

    @property
    def walkers(self) -> list[Walker]:
        """Where the walker is at every latent frame: a multiple of 3 of them."""
        rule = partial(slide, self.rooms)
        return follow(self.start, self.actions, rule)


def reverse(actions: Sequence[Action]) -> list[Action]:
    """The way back of a way made of pure turns and pure steps."""
    return [Action(-a.forward, -a.strafe, -a.turn, -a.look) for a in reversed(actions)]


def turn(by: float) -> list[Action]:
    """Turn on the spot, degrees to the right, at most `TURN_A_FRAME` a frame."""
    frames = int(np.ceil(abs(by) / TURN_A_FRAME - 1e-9))
    return [Action(turn=by / frames)] * frames if frames else []


def ahead(distance: float, aside: float = 0.0) -> list[Action]:
    """Walk straight on, units, at most `STEP_A_FRAME` a frame, looking so many degrees to the right of the way."""
    frames = int(np.ceil(distance / STEP_A_FRAME - 1e-9))
    each, look = distance / max(frames, 1), radians(aside)
    return [Action(forward=each * cos(look), strafe=-each * sin(look))] * frames


def towards(at: Walker, x: float, z: float) -> list[Action]:
    """Turn to a ground point by the shorter way, and walk there."""
    bearing = degrees(atan2(x - at.x, z - at.z))
    return turn((bearing - at.yaw + 180) % 360 - 180) + ahead(hypot(x - at.x, z - at.z))


def clear_line(rooms: Rooms, x0: float, z0: float, x1: float, z1: float, margin: float) -> bool:
    """Whether one can walk straight from one point to the other, `margin` units from every wall."""
    steps = int(hypot(x1 - x0, z1 - z0) / 0.1) + 2
    return all(
        clearance(rooms, float(x), float(z)) >= margin
        for x, z in zip(np.linspace(x0, x1, steps), np.linspace(z0, z1, steps), strict=True)
    )


def room_of(rooms: Rooms, x: float, z: float) -> int:
    """Number of the room a ground point lies in."""
    inside = (rooms.rooms[:, 0] <= x) & (x <= rooms.rooms[:, 2]) & (rooms.rooms[:, 1] <= z) & (z <= rooms.rooms[:, 3])
    return int(np.flatnonzero(inside)[0])


def _finish(name: str, seed: int, rooms: Rooms, start: Walker, shown: list[Action], rest: list[Action]) -> Scenario:
    """Even out the lengths: both parts become whole chunks, by standing still at the end of each."""
    shown = shown + [Action()] * (-(len(shown) + 1) % 3)
    rest = rest + [Action()] * (-len(rest) % 3)
    return Scenario(name, seed, rooms, start, (*shown, *rest), len(shown) + 1)


def _place(seed: int) -> tuple[Rooms, np.random.Generator, Walker]:
    rooms = build(TEST_SEEDS.start + seed)
    rng = np.random.default_rng((TEST_SEEDS.start, seed))
    x, z = free_place(rooms, rng, 1.0)
    return rooms, rng, Walker(x, z, float(rng.uniform(0, 360)))


def pan(seed: int, name: str, by: float, pause: int) -> Scenario:
    """Turn away by so many degrees, stand still, turn back; the way back is generated."""
    rooms, rng, start = _place(seed)
    out = turn(by * float(rng.choice([-1, 1])))
    return _finish(name, seed, rooms, start, out + [Action()] * pause, reverse(out))


def spins(seed: int, name: str = "spins", rounds: int = 5) -> Scenario:
    """A full turn shown, then as many again, to and fro, generated: longer than any training clip."""
    rooms, _, start = _place(seed)
    out = turn(360.0)
    rest = [a for i in range(rounds - 1) for a in (reverse(out) if i % 2 == 0 else out)]
    return _finish(name, seed, rooms, start, out, rest)


def out_and_back(seed: int) -> Scenario:
    """Walk straight on, look round, and undo it all step by step, generated."""
    rooms, rng, _ = _place(seed)
    while True:
        start = Walker(*free_place(rooms, rng, 0.7), float(rng.uniform(0, 360)))
        out = ahead(2.5) + turn(180.0 * float(rng.choice([-1, 1])))
        if min(clearance(rooms, w.x, w.z) for w in follow(start, out)) > RADIUS + 0.1:
            return _finish("out and back", seed, rooms, start, out, reverse(out))


def square(seed: int) -> Scenario:
    """A square loop, looking round at each corner; the second round is generated."""
    rooms, rng, _ = _place(seed)
    while True:
        x, z = free_place(rooms, rng, 0.7)
        side, yaw = float(rng.uniform(1.0, 1.6)), float(rng.integers(0, 4) * 90)
        loop = (ahead(side) + turn(90.0)) * 4
        corners = follow(Walker(x, z, yaw), loop)
        if min(clearance(rooms, w.x, w.z) for w in corners) > RADIUS + 0.1:
            return _finish("square", seed, rooms, Walker(x, z, yaw), loop, loop)


def door(seed: int, name: str = "door", backwards: bool = False) -> Scenario:
    """Look round in one room, go through a door, look round there; come back and look round again, generated.

    One comes back as one walks, facing where one goes. `backwards` undoes the way out instead, step by step: then every
    view has its exact twin among the shown ones, and the nearest pose is as good a choice as any.
    """
    rooms, rng, _ = _place(seed)
    while True:
        dx, dz = (float(v) for v in rooms.doors[rng.integers(len(rooms.doors))])
        (ax, az), (bx, bz) = (free_place(rooms, rng, 0.8) for _ in range(2))
        reach = (hypot(ax - dx, az - dz), hypot(bx - dx, bz - dz))
        if room_of(rooms, ax, az) == room_of(rooms, bx, bz) or max(reach) > 3.5 or min(reach) < 1.0:
            continue
        if clear_line(rooms, ax, az, dx, dz, 0.4) and clear_line(rooms, dx, dz, bx, bz, 0.4):
            break
    start = Walker(ax, az, float(rng.uniform(0, 360)))
    out = turn(270.0)
    out += towards(follow(start, out)[-1], dx, dz)
    out += towards(follow(start, out)[-1], bx, bz)
    out += turn(180.0)
    if backwards:
        return _finish(name, seed, rooms, start, out, reverse(out))
    back = towards(follow(start, out)[-1], dx, dz)
    back += towards(follow(start, out + back)[-1], ax, az)
    return _finish(name, seed, rooms, start, out, back + turn(270.0))


def loops(seed: int) -> Scenario:
    """Round a rectangle, looking round at each corner; then half of it again inside the first track, generated.

    The second time one keeps 0.3 to 0.5 units from the first track and looks 8 to 25 degrees to the side of where one
    goes: everything comes back, and no view does exactly.
    """
    rooms, rng, _ = _place(seed)
    while True:
        start = Walker(*free_place(rooms, rng, 0.7), float(rng.uniform(0, 360)))
        sides = [float(rng.uniform(1.6, 2.6)) for _ in range(2)]
        way = float(rng.choice([-1, 1]))
        out = [action for side in sides * 2 for action in ahead(side) + turn(way * 90.0)]
        if min(clearance(rooms, w.x, w.z) for w in follow(start, out)) > RADIUS + 0.1:
            break
    inward, aside = float(rng.uniform(0.3, 0.5)), float(rng.choice([-1, 1]) * rng.uniform(8, 25))
    # The first corner of the inner track lies half a right angle to the inside.
    again = turn(aside) + ahead(inward * 2**0.5, aside - way * 45.0)
    again += [action for side in sides for action in ahead(side - 2 * inward, aside) + turn(way * 90.0)]
    return replace(_finish("loops", seed, rooms, start, out, again), rule="content")


def one_room(rooms: Rooms) -> Rooms:
    """The same world with its four outer walls only."""
    outer = {name: getattr(rooms, name)[:4] for name in ("axis", "place", "span", "tiles")}
    whole = np.array([[0, 0, SIDE, SIDE]], np.float32)
    return replace(rooms, **outer, rooms=whole, doors=np.empty((0, 2), np.float32))


def hall(seed: int) -> Scenario:
    """Look round in one large room, cross it, look round; back beside where one began, look round again, generated."""
    rooms, rng, start = _place(seed)
    rooms = one_room(rooms)
    while True:
        x, z = free_place(rooms, rng, 1.2)
        far, way = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0, 2 * np.pi))
        back = start.x + far * sin(way), start.z + far * cos(way)
        if 2.5 <= hypot(x - start.x, z - start.z) <= 4.0 and clearance(rooms, *back) > RADIUS + 0.1:
            break
    out = turn(270.0)
    out += towards(follow(start, out)[-1], x, z)
    out += turn(180.0)
    again = towards(follow(start, out)[-1], *back)
    return replace(_finish("open", seed, rooms, start, out, again + turn(-180.0)), rule="content")


def tour(rooms: Rooms, rng: np.random.Generator, start: Walker, frames: int, look: float) -> list[Action]:
    """Wander from place to place by straight clear lines, looking round on the way, for at least `frames`."""
    actions: list[Action] = []
    at = start
    been = {room_of(rooms, at.x, at.z)}
    while len(actions) < frames:
        targets = [free_place(rooms, rng, 0.7) for _ in range(60)]
        targets += [(float(x), float(z)) for x, z in rooms.doors]
        open_ways = [
            (x, z)
            for x, z in targets
            if 1.0 < hypot(x - at.x, z - at.z) < 6 and clear_line(rooms, at.x, at.z, x, z, 0.4)
        ]
        if not open_ways:
            actions += turn(90.0)
            at = follow(at, actions[-10:])[-1]
            continue
        # Unseen rooms first, else anywhere.
        fresh = [p for p in open_ways if room_of(rooms, *p) not in been]
        doors = [p for p in open_ways if any(hypot(p[0] - x, p[1] - z) < 1e-6 for x, z in rooms.doors)]
        pool = fresh or (doors if doors and rng.random() < 0.6 else open_ways)
        x, z = pool[int(rng.integers(len(pool)))]
        leg = towards(at, x, z)
        if rng.random() < 0.6:
            leg += turn(look * float(rng.choice([-1, 1])))
        actions += leg
        at = follow(at, leg)[-1]
        been.add(room_of(rooms, at.x, at.z))
    return actions


def wide(seed: int, shown: int = 201, generated: int = 60) -> Scenario:
    """A tour of at least three rooms shown, at least 60 chunks long; then the walker goes back the way it came."""
    rng = np.random.default_rng((TEST_SEEDS.start, seed, 1))
    for attempt in range(200):
        rooms = build(TEST_SEEDS.start + seed + 10_000 * attempt)
        x, z = free_place(rooms, rng, 1.0)
        start = Walker(x, z, float(rng.uniform(0, 360)))
        out = tour(rooms, rng, start, shown, 270.0)
        visited = {room_of(rooms, w.x, w.z) for w in follow(start, out)}
        if len(visited) >= 3:
            return _finish("wide", seed, rooms, start, out, reverse(out)[:generated])
    raise AssertionError("some world has three rooms that can be walked")


def wander(seed: int, shown: int = 96, generated: int = 96) -> Scenario:
    """A long wander shown, and all the way back generated."""
    rooms, rng, start = _place(seed)
    out = tour(rooms, rng, start, shown, 180.0)[:shown]
    return _finish("wander", seed, rooms, start, out, reverse(out)[:generated])


def away(seed: int) -> Scenario:
    """A tour that goes on and on: most of what is generated was never seen before."""
    rooms, rng, start = _place(seed)
    out = tour(rooms, rng, start, 72, 60.0)[:72]
    return _finish("never returns", seed, rooms, start, out[:24], out[24:])


def path(seed: int, text: str, shown: int) -> Scenario:
    """A walk by the path grammar; the first `shown` latent frames are shown."""
    rooms, _, start = _place(seed)
    actions = parse_path(text)
    return _finish(text, seed, rooms, start, actions[: shown - 1], actions[shown - 1 :])


def of_recorded(name: str, walk: RecordedWalk) -> Scenario:
    """A walk that somebody walked in rooms. Raises InvalidInput if it was elsewhere, or not begun by whole chunks."""
    rooms = build(rooms_seed(walk.scene))
    if walk.shown % 3:
        raise InvalidInput(f"{name}: shown = {walk.shown}, expected whole chunks of 3 latent frames")
    actions = walk.actions + [Action()] * (-len(walk.walkers) % 3)
    return Scenario(name, walk.seed, rooms, walk.walkers[0], (*actions,), walk.shown)


SCENARIOS: dict[str, Callable[[int], Scenario]] = {
    "pan90": partial(pan, name="pan90", by=90.0, pause=12),
    "pan180": partial(pan, name="pan180", by=180.0, pause=6),
    "pan360": partial(pan, name="pan360", by=360.0, pause=6),
    "out and back": out_and_back,
    "square": square,
    "door": door,
    "door backwards": partial(door, name="door backwards", backwards=True),
    "loops": loops,
    "open": hall,
    "wander": wander,
    "wide": wide,
    "spins": spins,
    "never returns": away,
}
"""All named walks, by a seed from 0."""
