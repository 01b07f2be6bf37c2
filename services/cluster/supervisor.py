"""Keeps the parts of the service running, whatever runs them.

Every part has a task, its keeper: it starts the part, tells it who else is there, and asks it how it is. A part that
died, or was silent for too long, is killed and started again under its name, after a rest that doubles. Whenever a part
has come, gone or moved there is a new roster, of a higher number, which the keepers bring to the parts that live; one
that starts has it before it serves. Names stay, so that what a shard is first for stays where it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from services.cluster.config import SupervisionConfig, check_count
from services.cluster.roster import KINDS, Kind, Pulse, Roster, State, Where, name_of, parsed
from worldkv.client import Member
from worldkv.errors import InvalidInput, NotFound, Unavailable, WorldKVError
from worldkv.tasks import tell_defect

_log = logging.getLogger(__name__)

GIVE_UP = 3
"""Starts that may fail until whoever waits for a part is told why; it goes on being tried."""


class Units(Protocol):
    """What runs parts: processes of a cluster, or a test's.

    start    a part that has this roster before it serves; answers where that is. One that runs already is left as it
             is. Raises a WorldKVError in words for people
    stop     a part, in order if it can within `seconds`, else kills it; harmless if there is none
    ping     answers how a part is. Raises NotFound if it has ended, Unavailable if it cannot say; may take for ever
    publish  a roster to a part; raises like ping
    """

    async def start(self, name: str, roster: Roster) -> Where: ...

    async def stop(self, name: str, seconds: float) -> None: ...

    async def ping(self, name: str) -> Pulse: ...

    async def publish(self, name: str, roster: Roster) -> None: ...


@dataclass
class Part:
    """A part, as it is known.

    where     it served last; None: it never did
    serves    whether it does, as far as is known: what does not is not ended in order
    restarts  times it was started again
    failures  starts and ends since it was last steady
    seen      number of the roster that it was told
    heard     when it was last known to be well, by the loop's clock
    begun     when it began to serve, by the loop's clock
    figures   what it says of itself
    trouble   why it does not serve, in words
    """

    name: str
    kind: Kind
    state: State = "starting"
    where: Where | None = None
    serves: bool = False
    restarts: int = 0
    failures: int = 0
    seen: int = 0
    heard: float = 0.0
    begun: float = 0.0
    figures: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""

    @property
    def member(self) -> Member | None:
        return self.where and Member(self.name, self.where.address)


class Supervisor:
    """So many parts of each kind, kept running.

    units      what runs them
    wanted     how many of each kind; kinds that are not named: none
    elsewhere  members of kinds that run elsewhere, told to the others and not looked after
    found      what parts that run already say of themselves, by name: they go on, as many as the newest roster among
               theirs wants
    number     the first roster's is higher than this, and than those found
    listener   told of every roster

    `begin` starts everything; after `stop` nothing runs; `leave` lets go and leaves all parts as they are.
    """

    def __init__(
        self,
        units: Units,
        config: SupervisionConfig,
        wanted: Mapping[Kind, int],
        elsewhere: Mapping[Kind, Collection[Member]] | None = None,
        found: Mapping[str, Pulse] | None = None,
        number: int = 0,
        listener: Callable[[Roster], None] = lambda roster: None,
    ) -> None:
        self._units, self._config, self._listener = units, config, listener
        self._elsewhere = {kind: tuple(members) for kind, members in (elsewhere or {}).items()}
        self._found = dict(found or {})
        newest = max((pulse.roster for pulse in self._found.values()), key=lambda roster: roster.number, default=None)
        counts = newest.wanted if newest else wanted
        self._wanted = {kind: 0 if kind in self._elsewhere else counts.get(kind, 0) for kind in KINDS}
        self._parts: dict[str, Part] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self._serves = ""
        self.roster = Roster(max(number, newest.number if newest else 0), foreign=frozenset(self._elsewhere))

    def parts(self) -> Iterator[Part]:
        """All parts, by kind and then number; those elsewhere too."""
        for kind in KINDS:
            for name, address in self._elsewhere.get(kind, ()):
                yield Part(name, kind, "elsewhere", Where(address))
            yield from sorted(self._of(kind), key=lambda part: parsed(part.name))

    def begin(self, where: str = "") -> None:
        """Start what is wanted and does not run; end what runs and is not wanted. `where`: this supervisor serves."""
        self._serves = where
        now = asyncio.get_running_loop().time()
        for name, pulse in self._found.items():
            part = Part(name, parsed(name)[0], "ready", pulse.where, serves=True, heard=now, begun=now)
            self._add(part)
        self._settle()

    async def until_ready(self) -> None:
        """Wait until all that is wanted serves; Unavailable, in words, if a part does not come or all is ended."""
        await self._until(lambda: all(map(self._came, self._names())))
        await self._until_known()

    async def scale(self, wanted: Mapping[Kind, int]) -> None:
        """Have so many parts of these kinds; returns when they have come and gone, and the others know.

        Raises InvalidInput for a kind that runs elsewhere or fewer parts than can be, Unavailable if one does not
        come (it goes on being tried) or all is ended meanwhile.
        """
        for kind, count in wanted.items():
            if kind in self._elsewhere:
                raise InvalidInput(f"{kind}={count}: these run elsewhere and are not started or ended here")
            check_count(kind, count)
        self._check_running()
        self._wanted.update(wanted)
        self._settle()
        await self._until(lambda: self._gone(wanted) and all(map(self._came, self._names(wanted))))
        await self._until_known()

    async def stop(self) -> None:
        """End all parts, in order: each kind before those that it needs. Harmless a second time, and goes on if
        whoever waits for it does not any more."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._tell()
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for kind in reversed(KINDS):
            parts = self._of(kind)
            for part in parts:
                part.state = "leaving"
            await asyncio.gather(*map(self._end_with_all, parts))
            for part in parts:
                del self._parts[part.name]
        self.ended.set()

    async def leave(self) -> None:
        """Look after nothing any more; the parts run on."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)

    # What a keeper does.

    def _settle(self) -> None:
        """Have a keeper for every part that is wanted, and end the others."""
        names = self._names()
        for part in [part for name, part in self._parts.items() if name not in names and part.state != "leaving"]:
            part.state, keeper = "leaving", self._keepers[part.name]
            keeper.cancel()
            self._look_after(part, self._end(part, keeper))
        for name in names:
            if name not in self._parts:
                self._add(Part(name, parsed(name)[0]))
        self._renew()

    def _add(self, part: Part) -> None:
        self._parts[part.name] = part
        self._look_after(part, self._keep(part))

    def _look_after(self, part: Part, doing: Coroutine[None, None, None]) -> None:
        keeper = self._keepers[part.name] = asyncio.create_task(doing, name=f"keeper of {part.name}")
        keeper.add_done_callback(tell_defect)

    async def _keep(self, part: Part) -> None:
        """Start a part if it does not serve, and look after it; does not end."""
        while True:
            if part.state == "starting":
                await self._start(part)
            else:
                await self._look(part)

    async def _start(self, part: Part) -> None:
        """Start a part, after a rest if it failed before; its trouble says why it does not serve."""
        if part.failures > 1:
            rest = self._config.rest_seconds * 2 ** min(part.failures - 2, 30)
            await asyncio.sleep(min(rest, self._config.longest_rest_seconds))
        await self._until(lambda: self._served(part.kind))
        roster = self.roster
        try:
            async with asyncio.timeout(self._config.start_seconds):
                where = await self._units.start(part.name, roster)
        except (WorldKVError, TimeoutError) as error:
            seconds = f"{self._config.start_seconds:g} s"
            trouble = str(error) or f"it did not start within {seconds}: the cluster has no room, or its log says more"
            await self._lost(part, trouble)
            return
        part.begun = part.heard = asyncio.get_running_loop().time()
        part.state, part.where, part.seen, part.trouble, part.serves = "ready", where, roster.number, "", True
        _log.info("%s serves on %s", part.name, where.address)
        self._renew()

    async def _look(self, part: Part) -> None:
        """Tell a part of a new roster, or ask how it is after a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.ping_seconds):
                await self._until(lambda: part.seen < self.roster.number)
        now, before = asyncio.get_running_loop().time, (part.state, part.seen)
        try:
            async with asyncio.timeout(self._config.ping_seconds):
                await self._visit(part)
        except NotFound as error:
            await self._lost(part, str(error))
            return
        except (Unavailable, TimeoutError):
            await asyncio.sleep(self._config.ping_seconds / 4)
        silent = now() - part.heard
        if silent >= self._config.silent_seconds:
            await self._lost(part, f"it was silent for {silent:.0f} s")
            return
        part.state = "silent" if silent > 2 * self._config.ping_seconds else "ready"
        if now() - part.begun > self._config.steady_seconds:
            part.failures = 0
        if before != (part.state, part.seen):
            self._tell()

    async def _visit(self, part: Part) -> None:
        await self._bring(part)
        pulse = await self._units.ping(part.name)
        part.heard = asyncio.get_running_loop().time() - pulse.idle
        part.figures = pulse.figures

    async def _bring(self, part: Part) -> None:
        """Tell a part of the newest roster, if it does not know of it yet."""
        roster = self.roster
        if part.seen < roster.number:
            await self._units.publish(part.name, roster)
            part.seen = roster.number

    async def _lost(self, part: Part, why: str) -> None:
        """A part that does not serve: kill what may be left of it. It keeps its place in the roster."""
        _log.warning("%s is started again: %s", part.name, why)
        part.state, part.trouble, part.figures, part.serves = "starting", why, {}, False
        part.restarts, part.failures = part.restarts + 1, part.failures + 1
        self._tell()
        await self._units.stop(part.name, 0)

    # How parts end.

    async def _end(self, part: Part, keeper: asyncio.Task[None]) -> None:
        """End a part that the roster says is leaving: itself and those who stay know it first."""
        await asyncio.gather(keeper, return_exceptions=True)
        with suppress(NotFound, Unavailable, TimeoutError):
            async with asyncio.timeout(self._config.silent_seconds):
                await self._bring(part)
        await self._until_known()
        telling = asyncio.create_task(self._keep_told(part), name=f"telling {part.name} of rosters")
        telling.add_done_callback(tell_defect)
        try:
            await self._units.stop(part.name, self._config.end_seconds if part.serves else 0)
        finally:
            telling.cancel()
        _log.info("%s has ended", part.name)
        del self._parts[part.name], self._keepers[part.name]
        self._settle()  # it may be wanted again

    async def _keep_told(self, part: Part) -> None:
        """Tell a part that ends of every new roster: those who stay refuse what it hands on by an older one."""
        while True:
            await self._until(lambda: part.seen < self.roster.number)
            try:
                async with asyncio.timeout(self._config.ping_seconds):
                    await self._bring(part)
            except NotFound:
                return
            except (Unavailable, TimeoutError):
                await asyncio.sleep(self._config.ping_seconds / 4)

    async def _end_with_all(self, part: Part) -> None:
        """End a part together with all others: it hands nothing to those that end as well."""
        if part.serves:
            with suppress(NotFound, Unavailable, TimeoutError):
                async with asyncio.timeout(self._config.ping_seconds):
                    await self._units.publish(part.name, self.roster.alone(part.kind, part.name))
        await self._units.stop(part.name, self._config.end_seconds if part.serves else 0)

    # Who there is, and who waits for it.

    def _names(self, kinds: Collection[Kind] = KINDS) -> list[str]:
        """Of the parts of these kinds that are wanted."""
        return [name_of(kind, n) for kind in KINDS if kind in kinds for n in range(1, self._wanted[kind] + 1)]

    def _of(self, kind: Kind) -> list[Part]:
        return [part for part in self._parts.values() if part.kind == kind]

    def _served(self, kind: Kind) -> bool:
        """Whether somebody of each kind that this one needs has served."""
        return all(map(self.roster.members.get, KINDS[: KINDS.index(kind)]))

    def _possible(self, kind: Kind) -> bool:
        """Whether somebody of each kind that this one needs is wanted; without generators, gateways wait."""
        return all(self._wanted[each] or each in self._elsewhere for each in KINDS[: KINDS.index(kind)])

    def _renew(self) -> None:
        """Make the next roster, if it differs from this one."""
        members = {kind: self._members(kind, leaving=False) for kind in KINDS}
        leaving = {kind: self._members(kind, leaving=True) for kind in KINDS}
        wanted, serves = dict(self._wanted), self._serves
        new = replace(self.roster, members=members, leaving=leaving, wanted=wanted, supervisor=serves)
        if new != self.roster:
            self.roster = replace(new, number=self.roster.number + 1)
            self._listener(self.roster)
        self._tell()

    def _members(self, kind: Kind, leaving: bool) -> tuple[Member, ...]:
        own = [part for part in self.parts() if part.kind == kind and (part.state == "leaving") == leaving]
        return tuple(member for member in (part.member for part in own) if member)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self._changed.wait()

    async def _until_known(self) -> None:
        """Wait until all that are well know of the present roster, for a while."""
        number = self.roster.number
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.silent_seconds):
                await self._until(lambda: all(part.seen >= number for part in self._parts.values() if _well(part)))

    def _gone(self, kinds: Collection[Kind]) -> bool:
        self._check_running()
        return not any(part.state == "leaving" for part in self._parts.values() if part.kind in kinds)

    def _came(self, name: str) -> bool:
        self._check_running()
        part = self._parts[name]
        if not self._possible(part.kind):
            return True
        if part.failures >= GIVE_UP and part.state == "starting":
            raise Unavailable(f"{name} does not start: {part.trouble}")
        return part.state not in ("starting", "leaving")

    def _check_running(self) -> None:
        if self._stopping is not None:
            raise Unavailable("the service is being ended")


def _well(part: Part) -> bool:
    return part.state == "ready"
