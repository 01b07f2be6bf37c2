"""One tenant's random commands to a service, against a model of what it promised; see `Machine`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.faults.promises import Promises
from worldkv import rpc, worlds
from worldkv.actions import Action
from worldkv.catalog import Catalog, World
from worldkv.chunk import Lineage
from worldkv.client import WalkClient
from worldkv.client.listening import Events
from worldkv.client.walk import Walk
from worldkv.client.walk_events import Drawn, Refused
from worldkv.errors import DeadlineExceeded, NotFound, OverBudget, Unavailable, WorldKVError
from worldkv.store import Level, Miss, PartKey, Store
from worldkv.v1.generator_pb2 import SuspendRequest
from worldkv.v1.generator_pb2_grpc import GeneratorStub
from worldkv.wire_sessions import MemoryChange

EXCUSED = Unavailable, DeadlineExceeded, OverBudget
"""Errors that say that something is down or full just now: what was asked for may be asked for again."""
MOST_WALKS, MOST_WORLDS = 3, 6
"""Of a tenant: sessions at a time, and worlds that nobody walks in."""
SAMPLE = 24
"""Chunks that are read back after a command, at most."""
PATIENCE = 120.0
"""Seconds until somebody who does not answer counts as silent."""
REST_SECONDS = 0.5

Generators = Callable[[], Awaitable[Sequence[str]]]
"""Says which there are now, each host:port."""


@dataclass
class Seen:
    """What was seen.

    chunks    drawn
    recalled  chunks put back into windows
    strays    of these, those that are not of the session's own lineage
    read      acknowledged chunks that were read back and compared
    broken    promises that were not kept, in words; strays among them
    done      commands by name
    excused   commands that failed for a reason that passes, by error
    """

    chunks: int = 0
    recalled: int = 0
    strays: int = 0
    read: int = 0
    broken: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Walker:
    """A session, and what it was promised.

    walk      None: it is to be joined again
    lineage   that its chunks have to be of
    unsure    whether it was told to go back, and not answered
    closing   whether it was told to end, and not answered
    """

    session: str
    name: str
    lineage: Lineage
    promises: Promises
    walk: Walk | None = None
    listening: asyncio.Task[None] | None = None
    unsure: bool = False
    closing: bool = False


class Kept(NamedTuple):
    """Where a tenant's worlds are kept."""

    tenant: str
    store: Store
    worlds: Catalog


class Ways(NamedTuple):
    """How a machine walks.

    scene     by a seed
    lockstep  whether it waits for memory
    least     level from which on it holds the service to what is kept: what one shard has goes with it if it is killed
    """

    scene: str = "rooms:{}"
    lockstep: bool = False
    least: Level = Level.TWO


WAYS = Ways()


class Machine:
    """Walks, goes back, forks, suspends, changes budgets, closes, reopens, removes, sweeps at random, for one tenant.

    The model of a session is its lineage, and the chunks that it was told are kept, with their pictures. After each
    command all of it is looked at: what was recalled is of the lineage, a sample of what is kept can be read and is as
    it was drawn, and the other tenant finds nothing there.

    address     of the service
    kept        where this tenant's worlds are kept, and
    foreign     where another's are
    generators  that there are now, each host:port
    ways        how it walks
    """

    def __init__(self, address: str, kept: Kept, foreign: Kept, generators: Generators, seed: int, ways: Ways) -> None:
        self.seen = Seen()
        self._address, self._ways = address, ways
        self._tenant, self._store, self._catalog = kept
        self._foreign, self._generators = foreign.store, generators
        self._rng = random.Random(f"{seed} {kept.tenant}")
        self._walkers: list[Walker] = []
        self._worlds: dict[str, Promises] = {}
        self._named = 0

    async def run(self, goes_on: Callable[[int], bool]) -> Seen:
        """Give commands until `goes_on`, which is told their number, says no; then close everything, and look.

        Worlds stay, and are walked in again if it runs again.
        """
        number = 0
        async with WalkClient(self._address, tenant=self._tenant) as self._client, AsyncExitStack() as self._stack:
            while goes_on(number):
                number += 1
                await self._command()
            for walker in [*self._walkers]:
                await self._do("close", walker, self._close)
            for name, promises in self._worlds.items():
                await self._look_at_world(name, promises)
        return self.seen

    async def _command(self) -> None:
        """Something happens to one session, which then walks on."""
        if len(self._walkers) < MOST_WALKS and (not self._walkers or self._rng.random() < 0.4):
            await self._do("enter", None, self._enter)
            return
        walker = self._rng.choice(self._walkers)
        if walker.walk is None:
            await self._do("join", walker, self._join)
            return
        commands = (
            *(self._rewind, self._fork, self._suspend, self._leave),
            *(self._budget, self._close, self._remove, self._sweep, self._nothing),
        )
        command = self._rng.choices(commands, (3, 2, 2, 2, 2, 1, 1, 1, 9))[0]
        await self._do(command.__name__.strip("_"), walker, command)
        if walker.walk is not None and walker in self._walkers:
            await self._do("move", walker, self._move)
        await self._look(walker)

    async def _do(self, name: str, walker: Walker | None, command: Callable[[Any], Awaitable[None]]) -> None:
        """Give a command; what may not come of it is a broken promise."""
        self.seen.done[name] += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await command(walker)
        except EXCUSED as error:
            self.seen.excused[f"{name}: {type(error).__name__}"] += 1
            if walker is not None:
                await _let_go(walker)
            await asyncio.sleep(REST_SECONDS)
        except TimeoutError:
            await self._lose(walker, f"{name} was not answered within {PATIENCE:g} s")
        except WorldKVError as error:
            await self._lose(walker, f"{name} failed: {type(error).__name__}: {error}")

    async def _lose(self, walker: Walker | None, words: str) -> None:
        self._break(f"{words} ({walker.session if walker else 'no session yet'})")
        if walker is not None:
            await _let_go(walker)
            self._walkers.remove(walker)

    def _break(self, words: str) -> None:
        self.seen.broken.append(f"tenant {self._tenant}: {words}")

    # Commands.

    async def _enter(self, nobody: None) -> None:
        """Open a new world, or one that nobody walks in, at its end or before."""
        old = sorted(self._worlds)
        name = self._rng.choice(old) if old and (len(old) >= MOST_WORLDS or self._rng.random() < 0.5) else ""
        promises = self._worlds.get(name, Promises())
        at = self._rng.randint(0, promises.end) if name and self._rng.random() < 0.5 else None
        if not name:
            self._named += 1
        seed, opened = self._rng.randrange(100), name or f"world {self._named}"
        scene = "" if name else self._ways.scene.format(seed)
        opening = self._client.open(
            scene, world=opened, at=at, seed=seed, lockstep=self._ways.lockstep, pictures="rgb32f"
        )
        walk = await self._stack.enter_async_context(opening)
        self._worlds.pop(name, None)
        lineage = walk.world.lineage
        promises.forget(lineage.covers)
        walker = Walker(walk.session, opened, lineage, promises)
        self._walkers.append(walker)
        self._attend(walker, walk)
        await self._move(walker)

    async def _join(self, walker: Walker) -> None:
        try:
            walk = await self._stack.enter_async_context(self._client.join(walker.session))
        except NotFound:
            if not walker.closing:
                raise
            self._closed(walker)  # nobody came to say so
            return
        walker.closing = False
        lineage = walk.world.lineage
        if walker.unsure:
            walker.promises.forget(lineage.covers)  # it went back, or did not
            walker.unsure = False
        walker.promises.stands(lineage.covers)
        walker.lineage = lineage
        self._attend(walker, walk)

    async def _move(self, walker: Walker) -> None:
        assert walker.walk is not None
        for _ in range(self._rng.randint(1, 4)):
            drawn = await walker.walk.move(Action(turn=self._rng.uniform(-30, 30), forward=self._rng.uniform(0, 0.2)))
            self._see(walker, drawn)

    async def _rewind(self, walker: Walker) -> None:
        assert walker.walk is not None
        walker.unsure = True
        await walker.walk.rewind(self._rng.randint(0, walker.walk.next))
        walker.unsure = False
        walker.lineage = walker.walk.world.lineage
        walker.promises.forget(walker.lineage.covers)

    async def _fork(self, walker: Walker) -> None:
        assert walker.walk is not None
        at = self._rng.randint(0, walker.walk.next)
        if len(self._worlds) < MOST_WORLDS:
            world = await walker.walk.fork(at=at)
            self._worlds[world.name] = walker.promises.copy(world.lineage.covers)

    async def _suspend(self, walker: Walker) -> None:
        for address in await self._generators():
            async with rpc.channel(address) as channel:
                stub: Any = GeneratorStub(channel)
                with suppress(NotFound), rpc.translated():
                    request = SuspendRequest(session=walker.session)
                    await stub.Suspend(request, metadata=((rpc.TENANT_KEY, self._tenant),))

    async def _leave(self, walker: Walker) -> None:
        await _let_go(walker)
        await self._join(walker)

    async def _budget(self, walker: Walker) -> None:
        """Keep the keys and values of fewer chunks, or of more."""
        assert walker.walk is not None
        await walker.walk.configure(MemoryChange(budget_chunks=self._rng.choice((0, 2, 4, 8))))

    async def _close(self, walker: Walker) -> None:
        if walker.walk is None:
            await self._join(walker)
        if walker.walk is not None:
            walker.closing = True
            walker.promises.said(await walker.walk.close())
            await _let_go(walker)
            self._closed(walker)

    def _closed(self, walker: Walker) -> None:
        self._walkers.remove(walker)
        self._worlds[walker.name] = walker.promises

    async def _remove(self, walker: Walker) -> None:
        """Remove a world that nobody walks in."""
        if self._worlds:
            name = self._rng.choice(sorted(self._worlds))
            promises = self._worlds.pop(name)  # without an answer it may be gone, or not
            try:
                await worlds.remove(self._store, self._catalog, name)
            except NotFound:
                if promises.kept:
                    raise

    async def _sweep(self, walker: Walker) -> None:
        """Drop the chunks that no world has any more, those of branches that somebody went back from."""
        await worlds.sweep(self._store, self._catalog)

    async def _nothing(self, walker: Walker) -> None:
        pass

    # What comes of them.

    def _attend(self, walker: Walker, walk: Walk) -> None:
        walker.walk = walk
        walker.listening = asyncio.create_task(self._listen(walker, walk.events()))

    async def _listen(self, walker: Walker, events: Events) -> None:
        try:
            async for event in events:
                walker.promises.hear(event)
                if isinstance(event, Refused):
                    self.seen.excused["budget: Refused"] += 1  # nothing changed, and it says why
        except WorldKVError:
            pass  # the next command is told the same

    def _see(self, walker: Walker, drawn: Drawn) -> None:
        assert walker.walk is not None
        if not walker.lineage.covers(drawn.key):  # it was suspended or moved, and went on on a branch of its own
            walker.lineage = walker.lineage.fork(drawn.key.index, drawn.key.branch)
        self.seen.chunks += 1
        self.seen.recalled += len(drawn.recalled)
        for each in drawn.recalled:
            if not walker.lineage.covers(each.key) or each.key.index >= drawn.key.index:
                self.seen.strays += 1
                self._break(f"{each.key} was recalled for {drawn.key}")
        for key in drawn.demoted:
            if not walker.lineage.covers(key):
                self._break(f"{key} was demoted for {drawn.key}")

    async def _look(self, walker: Walker) -> None:
        """Read back some of what a session was told is kept, as its tenant and as another."""
        await self._check(walker.promises, walker.lineage, f"session {walker.session}")

    async def _look_at_world(self, name: str, promises: Promises) -> None:
        try:
            world: World = (await self._catalog.read(name)).world
        except EXCUSED as error:
            self.seen.excused[f"look: {type(error).__name__}"] += 1
        except NotFound:
            if promises.kept:
                self._break(f"world {name!r} is gone, and {len(promises.kept)} chunks of it were kept")
        else:
            await self._check(promises, world.lineage, f"world {name!r}")

    async def _check(self, promises: Promises, lineage: Lineage, whose: str) -> None:
        kept = promises.at_least(self._ways.least)
        keys = self._rng.sample(kept, min(SAMPLE, len(kept)))
        self.seen.read += len(keys)
        for words in await self._patiently(lambda: promises.broken(self._store, lineage, keys)):
            told = ", ".join(promises.heard)
            promises.heard.clear()
            parts = ", ".join(f"{branch.hex()[:4]}/{end}" for branch, end in lineage.parts)
            self._break(f"{whose}: {words}" + (f" (was told: {told}; its world: {parts})" if told else ""))
        asked = [PartKey(key, "part") for key in keys[:4]]
        for key, found in (await self._foreign.get(asked)).items() if asked else ():
            if not isinstance(found, Miss):
                self._break(f"{whose}: another tenant reads {key}")

    async def _patiently(self, ask: Callable[[], Awaitable[list[str]]]) -> list[str]:
        """What is wrong; what is only late, or where nobody answers just now, is asked for again."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            found = await ask()
            passing = [words for words in found if any(name in words for name in (Miss.LATE.name, Miss.TIER_DOWN.name))]
            if not passing or asyncio.get_running_loop().time() > end:
                return found
            await asyncio.sleep(REST_SECONDS)


async def _let_go(walker: Walker) -> None:
    """Leave a session that lives on, and hear all that it had to say."""
    walk, walker.walk = walker.walk, None
    if walk is not None:
        await walk.leave()
    if walker.listening is not None:
        await walker.listening
        walker.listening = None


def machines(
    addresses: Sequence[str], kept: Sequence[Kept], generators: Generators, seed: int, ways: Ways = WAYS
) -> list[Machine]:
    """A machine for each tenant, by the service's addresses in turn."""
    return [
        Machine(addresses[n % len(addresses)], own, kept[n - 1], generators, seed, ways) for n, own in enumerate(kept)
    ]
