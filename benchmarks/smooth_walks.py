"""Walks as people make them, with the action of every frame: what forecasts of a camera are judged by.

| walk | |
| --- | --- |
| `roam` | from room to room, straight on or turning on the spot, looking around (`benchmarks.select_sim`) |
| `tour` | the same over known ways, as the pocket model is judged by (`services.generator.scenarios`) |
| `stroll` | curves, turns and steps that set in and fade, pauses, looks around |
| `laps` | there and back on one way, each time some way beside it |
| `abrupt` | short pieces of turns and steps that set in at once and are often undone |
| `quick` | the same, turning two and a half times as fast |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from math import atan2, cos, degrees, hypot, radians, sin
from typing import NamedTuple

import numpy as np

from benchmarks.select_sim import roam
from pocket.rooms import Rooms, build, free_place, slide
from pocket.walks import STEP, TURN, moves
from services.generator.scenarios import clear_line, tour
from worldkv.actions import Action, Slide, Walker, follow
from worldkv.pose import Matrix

SPEEDING, TURNING = 0.06, 2.5
"""By how much a stroller's step and turn change in a frame, units and degrees."""
NEAR = 0.35
"""Units from a place at which a stroller is there."""


class Walk(NamedTuple):
    """Poses [frames, 4, 4], and the action that led to each; the first has led to nothing."""

    poses: Matrix
    actions: list[Action]


class Stroller:
    """Somebody who steers to places: steps and turns have momentum, walls do not."""

    def __init__(self, rooms: Rooms, rng: np.random.Generator) -> None:
        x, z = free_place(rooms, rng)
        self.walkers, self.actions = [Walker(x, z, float(rng.uniform(0, 360)))], [Action()]
        self._rule: Slide = partial(slide, rooms)

    @property
    def at(self) -> Walker:
        return self.walkers[-1]

    def walk(self, frames: int) -> Walk:
        return Walk(np.stack([w.pose for w in self.walkers[:frames]]), self.actions[:frames])

    def go(self, x: float, z: float, pace: float) -> None:
        """Walk to a ground point, or until a wall stops it."""
        for _ in range(120):
            before, way = self.at, hypot(x - self.at.x, z - self.at.z)
            if way < NEAR:
                return
            error = (degrees(atan2(x - before.x, z - before.z)) - before.yaw + 180) % 360 - 180
            step = pace * max(0.0, 1 - abs(error) / 70) * min(1.0, 2 * way + 0.2)
            self._frame(0.35 * error, step)
            if step > 0.1 and hypot(self.at.x - before.x, self.at.z - before.z) < 0.02:
                return

    def look(self, by: float) -> None:
        """Turn on the spot, degrees to the right."""
        end = self.at.yaw + by
        while abs(end - self.at.yaw) > 2 or abs(self.actions[-1].turn) > 1:
            self._frame(0.35 * (end - self.at.yaw), 0.0)

    def pause(self, frames: int) -> None:
        for _ in range(frames):
            self._frame(0.0, 0.0)

    def _frame(self, turn: float, step: float) -> None:
        was = self.actions[-1]
        turn, step = min(max(turn, -TURN), TURN), min(step, STEP)
        turn = was.turn + min(max(turn - was.turn, -TURNING), TURNING)
        step = was.forward + min(max(step - was.forward, -SPEEDING), SPEEDING)
        self.actions.append(Action(forward=step, turn=turn))
        self.walkers.append(self.at.after(self.actions[-1], self._rule))


def _roam(seed: int, frames: int) -> Walk:
    poses = roam(build(seed), frames, np.random.default_rng(seed))
    yaw = np.arctan2(poses[:, 0, 2], poses[:, 2, 2])
    turns = np.degrees((np.diff(yaw) + np.pi) % (2 * np.pi) - np.pi)
    ways = np.diff(poses[:, [0, 2], 3], axis=0)
    ahead = ways[:, 0] * np.sin(yaw[1:]) + ways[:, 1] * np.cos(yaw[1:])
    return Walk(poses, [Action(), *(Action(float(a), 0.0, float(t)) for a, t in zip(ahead, turns, strict=True))])


def _scripted(rooms: Rooms, start: Walker, actions: list[Action], frames: int) -> Walk:
    walkers = follow(start, actions[: frames - 1], partial(slide, rooms))
    return Walk(np.stack([w.pose for w in walkers]), [Action(), *actions[: frames - 1]])


def _tour(seed: int, frames: int) -> Walk:
    rooms, rng = build(seed), np.random.default_rng((seed, 1))
    x, z = free_place(rooms, rng, 1.0)
    start = Walker(x, z, float(rng.uniform(0, 360)))
    return _scripted(rooms, start, tour(rooms, rng, start, frames, 180.0), frames)


def _reachable(rooms: Rooms, x: float, z: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Places to walk to straight from a point: some anywhere, and doors."""
    places = [free_place(rooms, rng, 0.7) for _ in range(40)]
    places += [(px, pz) for px, pz in rooms.doors.tolist() for _ in range(3)]
    return [p for p in places if 1 < hypot(p[0] - x, p[1] - z) < 6 and clear_line(rooms, x, z, *p, 0.35)]


def _stroll(seed: int, frames: int) -> Walk:
    rooms, rng = build(seed), np.random.default_rng((seed, 2))
    who = Stroller(rooms, rng)
    while len(who.walkers) < frames:
        if places := _reachable(rooms, who.at.x, who.at.z, rng):
            who.go(*places[int(rng.integers(len(places)))], float(rng.uniform(0.15, 0.27)))
        if rng.random() < 0.25:
            who.pause(int(rng.integers(2, 9)))
        if not places or rng.random() < 0.4:
            who.look(float(rng.choice([-1, 1]) * rng.uniform(40, 200)))
    return who.walk(frames)


def _laps(seed: int, frames: int) -> Walk:
    rooms, rng = build(seed), np.random.default_rng((seed, 3))
    who = Stroller(rooms, rng)
    way = [(who.at.x, who.at.z)]
    while len(way) < 7 and (places := _reachable(rooms, *way[-1], rng)):
        way.append(places[int(rng.integers(len(places)))])
    beside, pace = rng.uniform(-0.25, 0.25, 2), 0.2
    for lap, (x, z) in enumerate(cycle([*way[1:], *way[-2::-1]])):
        if lap % (2 * len(way) - 2) == 0:
            beside, pace = rng.uniform(-0.25, 0.25, 2), float(rng.uniform(0.17, 0.27))
        who.go(x + beside[0], z + beside[1], pace)
        if rng.random() < 0.1:
            who.pause(int(rng.integers(2, 7)))
        if rng.random() < 0.15:
            who.look(float(rng.choice([-1, 1]) * rng.uniform(60, 180)))
        if len(who.walkers) >= frames:
            break
    return who.walk(frames)


def _abrupt(seed: int, frames: int, faster: float = 1.0) -> Walk:
    rooms, rng = build(seed), np.random.default_rng((seed, 4))
    x, z = free_place(rooms, rng)
    actions = [Action(forward, strafe, turn * faster) for forward, strafe, turn in moves(frames, rng)]
    return _scripted(rooms, Walker(x, z, float(rng.uniform(0, 360))), actions, frames)


def shaken(walk: Walk, rng: np.random.Generator, turn: float = 1.0, step: float = 0.02) -> Walk:
    """The same walk seen by a tracker that errs by so many degrees of yaw and units, standard deviations."""
    poses = walk.poses.copy()
    for pose, (yaw, dx, dz) in zip(poses, rng.normal(0, (turn, step, step), (len(poses), 3)), strict=True):
        c, s = cos(radians(yaw)), sin(radians(yaw))
        pose[:3, :3] = pose[:3, :3] @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        pose[[0, 2], 3] += dx, dz
    return Walk(poses, walk.actions)


SMOOTH: dict[str, Callable[[int, int], Walk]] = {"roam": _roam, "tour": _tour, "stroll": _stroll, "laps": _laps}
ABRUPT: dict[str, Callable[[int, int], Walk]] = {"abrupt": _abrupt, "quick": partial(_abrupt, faster=2.5)}
"""Walks by name: of a seed, so many frames long."""
