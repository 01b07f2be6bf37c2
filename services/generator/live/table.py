"""All sessions of a generator: who may open one, where a session is found, and what becomes of them at the end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from weakref import WeakValueDictionary

from services.generator.live import entering
from services.generator.live.looking import Looker
from services.generator.live.making import Maker
from services.generator.live.metrics import Metrics
from services.generator.live.opening import Opening
from services.generator.live.owning import CONFIRM_SECONDS
from services.generator.live.pictures import BYTES
from services.generator.live.resident import Resident, forked_name
from services.generator.live.walking import Walking
from services.generator.saving import Record
from services.generator.session import SessionConfig
from worldkv.actions import Walker
from worldkv.catalog import World, check_name
from worldkv.errors import ChunkCorrupt, Conflict, InvalidInput, NotFound, OverBudget, Unavailable, WorldKVError
from worldkv.memory import Kept
from worldkv.rpc import MAX_MESSAGE_BYTES
from worldkv.tasks import tell_defect
from worldkv.wire_sessions import MAX_PICTURE_BYTES, Format
from worldkv.worlds import HIDDEN

YIELD_SECONDS = 2.0
"""A session that did nothing for so long is suspended when another one needs its room."""
BUSY_SECONDS = 2.0
"""A generator counts as drawing for so long after it drew a chunk."""
SILENT_SECONDS = 3.0
"""A generator that did nothing at all for so long may have been taken for dead."""
DRAINED_AT_ONCE = 8
"""Sessions that are suspended at the same time when a generator ends."""
SPARE_BYTES = 64 << 10
"""Of a message, beside its pictures."""
NOWHERE = Walker(0.0, 0.0)

_log = logging.getLogger(__name__)


class Live:
    """The sessions that are open here, of all tenants. A session is its tenant's: nobody else finds it."""

    def __init__(self, maker: Maker, metrics: Metrics) -> None:
        self.maker, self.metrics, self.config = maker, metrics, maker.config.live
        self.looker = Looker(maker, self.config.looking_share, self._busy)
        self._sessions: dict[str, Walking] = {}
        self._watched: WeakValueDictionary[str, Walking] = WeakValueDictionary()  # by their ids for watching
        self._resuming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._draining = False
        self._tidied = monotonic()
        self._asking: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Walking]:
        return iter([*self._sessions.values()])

    @property
    def room(self) -> int:
        """How many more sessions would be admitted now."""
        return 0 if self._draining else min(self.maker.engine.room, max(0, self.config.most - len(self._sessions)))

    def tenants(self) -> set[str]:
        """Those with sessions that hold memory."""
        return {each.resident.tenant for each in self if each.resident.session is not None}

    def find(self, tenant: str, session: str) -> Walking:
        """A session that is open here; raises NotFound."""
        found = self._sessions.get(session)
        if found is None or found.resident.tenant != tenant or found.ended is not None:
            raise NotFound(f"no session {session[:80]!r} is open here")
        return found

    def watched(self, tenant: str, watch: str) -> Walking:
        """A session that is open here, by its id for watching; raises NotFound."""
        found = self._watched.get(watch)
        if found is None or found.resident.tenant != tenant or found.ended is not None:
            raise NotFound(f"no session is open here that can be watched as {watch[:80]!r}")
        return found

    def shown(self, tenant: str, session: str) -> Walking:
        """A session that is open here, by either of its ids; raises NotFound."""
        return self.watched(tenant, session) if session in self._watched else self.find(tenant, session)

    def of(self, tenant: str) -> list[Walking]:
        """A tenant's sessions, by id."""
        return sorted((each for each in self if each.resident.tenant == tenant), key=lambda each: each.resident.id)

    async def open(self, tenant: str, wanted: Opening) -> Walking:
        """Open a session in a new world, or in one that is there.

        Raises OverBudget without room, InvalidInput for what does not go together, NotFound for a world that is to be
        forked and is not there, Unavailable while this generator ends, and what `Resident.begin` and `Resident.enter`
        raise.
        """
        self._require_open()
        self._check_format(wanted.format)
        if wanted.fork and not wanted.world:
            raise InvalidInput("fork: the world to be forked has to be named")
        name = check_name(wanted.world or f"world-{secrets.token_hex(8)}")
        there = await self._there(tenant, name) if wanted.world else None
        if there is None and wanted.fork:
            raise NotFound(f"there is no world {name!r} to fork")
        record = self._begun(name, wanted) if there is None else await self._entered(tenant, there, wanted)
        resident = Resident(secrets.token_urlsafe(16), tenant, self.maker, self._admit, record)
        await (resident.begin() if there is None else resident.enter(wanted.at, there.name))
        self.metrics.opened()
        return self._walks(resident)

    async def confirm(self, walking: Walking) -> None:
        """Make sure that a session has not gone on elsewhere, while it slept here or this generator was silent.

        Raises Unavailable if it has: then it has ended here. Whoever holds the session for long is not waited for, but
        while nobody knows whether it was taken back. Such a session wakes, however long that takes, so that whoever
        joins is told where it stands.
        """
        resident, lock = walking.resident, walking.lock
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await lock.acquire()
        except TimeoutError as error:
            if resident.owner.doubted:
                raise Unavailable(f"session {resident.id} may have gone on elsewhere: join it again") from error
            if not resident.unsettled:
                return
            await lock.acquire()
        try:
            await self._confirm(walking, joined=True)
        finally:
            lock.release()

    async def resume(self, tenant: str, session: str) -> tuple[Walking, bool]:
        """A session that was suspended, or whose generator died; and whether it was awake here already.

        Raises NotFound if nothing is known of it, Conflict if its world is another session's by now, OverBudget.
        """
        self._require_open()
        if session.startswith(HIDDEN):
            raise NotFound(f"no session {session[:80]!r}")
        lock = self._resuming.setdefault(session, asyncio.Lock())
        async with lock:
            try:
                walking = self.find(tenant, session)
                await self.confirm(walking)
            except (NotFound, Unavailable):
                there = self._sessions.get(session)
                if there is not None and (there.resident.tenant != tenant or there.ended is None):
                    raise  # it is another's of this name, or lives here and nobody can say whose it is
                await self._gone(session)
                unknown = Record("unknown", (), None, NOWHERE, 0, "worldkv", False, "jpeg", "", 0, NOWHERE)
                resident = Resident(check_name(session, "session"), tenant, self.maker, self._admit, unknown)
                await resident.wake()
                self.metrics.woken()
                return self._walks(resident), False
            if walking.resident.session is not None:
                return walking, True
            async with walking.lock:
                await walking.awake()
            return walking, False

    async def suspend(self, walking: Walking) -> None:
        """Let go of a session's memory; whoever is joined is told to resume it."""
        async with walking.lock:
            await walking.leave_off(Unavailable(f"session {walking.resident.id} was suspended: resume it"))

    async def rewind(self, walking: Walking, at: int) -> None:
        """Take a session back to a chunk. Raises InvalidInput past the last one, Conflict, Unavailable."""
        async with walking.lock:
            if walking.ended is not None:
                raise walking.ended
            await self._confirm(walking)
            resident, before = walking.resident, walking.resident.world
            resident.require_before(at)
            try:
                await resident.rewind(at)
            finally:  # a session that sleeps may have been taken back, and finds out when it wakes
                if resident.world is not before or resident.session is None:
                    walking.taken_back(at)

    async def close(self, tenant: str, session: str) -> tuple[World, Kept]:
        """End a session once all its chunks are kept; the world it leaves, and how safe that is."""
        walking = self.find(tenant, session)
        async with walking.lock:
            if walking.ended is not None:
                raise walking.ended
            await self._confirm(walking)  # what another one has saved is not to go
            try:
                kept = await walking.resident.end()
            finally:
                walking.end_if_refused()
            walking.end(NotFound(f"session {session} was closed"), well=True)
        self.metrics.closed()
        self._sessions.pop(session, None)
        return walking.resident.world, kept

    async def drain(self) -> None:
        """Take no more sessions, and suspend all there are: whoever walks is told that the generator ends."""
        self._draining = True
        few = asyncio.Semaphore(DRAINED_AT_ONCE)

        async def suspend(walking: Walking) -> None:
            ends = Unavailable("this generator ends: the session goes on elsewhere")
            async with few, walking.lock:
                try:
                    await walking.leave_off(ends)
                except WorldKVError as error:
                    _log.warning("session %s could not be suspended: %s", walking.resident.id, error)
                walking.end(ends)

        await asyncio.gather(*map(suspend, self))

    async def aclose(self) -> None:
        """End everything that is left, kept or not."""
        self._draining = True
        if self._asking is not None:
            self._asking.cancel()
        for walking in self:
            walking.end(Unavailable("this generator has ended"))
            walking.task.cancel()
        tasks = [walking.task for walking in self]
        await asyncio.gather(*tasks, *self._ending.values(), return_exceptions=True)
        for walking in self:
            await walking.resident.let_go()
        self._sessions.clear()

    def tidy(self) -> None:
        """Do what only time brings; call it about once a second."""
        before, self._tidied = self._tidied, monotonic()
        if self._tidied - before > SILENT_SECONDS:
            for walking in self:
                walking.resident.owner.doubted = True
            self._asking = asyncio.create_task(self._ask(), name="whose sessions these are")
            self._asking.add_done_callback(tell_defect)
        awake = joined = 0
        for walking in self:
            asleep = walking.resident.session is None
            awake, joined = awake + (not asleep), joined + (walking.outbox is not None)
            forgotten = walking.active + self.config.forget_seconds < monotonic()
            alone = walking.outbox is None and not walking.watchers
            if asleep and alone and forgotten and not walking.lock.locked():
                walking.end(NotFound(f"session {walking.resident.id} was forgotten here: resume it"))
        self.metrics.held(len(self._sessions), awake, joined, self.maker.engine)

    async def _confirm(self, walking: Walking, joined: bool = False) -> None:
        """As `confirm`, under the session's lock. One that sleeps finds out when it wakes, or is joined: who joins is
        told where it stands."""
        if walking.resident.session is None:
            if walking.resident.unsettled:
                await walking.awake()
                return
            if not joined:
                return
        try:
            await walking.resident.confirm()
        except Conflict as error:
            gone = Unavailable(f"session {walking.resident.id} has gone on elsewhere: join it again")
            walking.end(gone)
            raise gone from error

    async def _ask(self) -> None:
        """Find out which sessions have gone on elsewhere: they hold memory for nobody."""
        for walking in self:
            with suppress(WorldKVError):  # whoever joins it asks again
                await self.confirm(walking)

    def _busy(self) -> bool:
        """Whether chunks are drawn just now, or will be in a moment."""
        since = monotonic() - BUSY_SECONDS
        return any(each.walked > since or each.lock.locked() for each in self._sessions.values())

    def _require_open(self) -> None:
        if self._draining:
            raise Unavailable("this generator ends: it takes no more sessions")

    def _check_format(self, form: Format) -> None:
        """Raises InvalidInput if a chunk's pictures would be more than a message holds."""
        maker = self.maker
        nbytes = maker.pictures * maker.height * maker.width * BYTES.get(form, 0)
        if nbytes > MAX_MESSAGE_BYTES - SPARE_BYTES:
            raise InvalidInput(
                f"{maker.pictures} pictures of {maker.width} x {maker.height} as {form} have {nbytes} bytes, more than "
                f"a message of {MAX_MESSAGE_BYTES} holds: ask for jpeg"
            )

    async def _there(self, tenant: str, name: str) -> World | None:
        try:
            return (await self.maker.tier(tenant).worlds.read(name)).world
        except NotFound:
            return None

    def _begun(self, name: str, wanted: Opening) -> Record:
        """What a session in a new world is."""
        if wanted.at:
            raise InvalidInput(f"world {name!r} is new: it has no chunk {wanted.at - 1} to begin after")
        if len(wanted.picture) > MAX_PICTURE_BYTES:
            raise InvalidInput(f"a picture has at most {MAX_PICTURE_BYTES} bytes, got {len(wanted.picture)}")
        start = wanted.start or self.maker.scene(wanted.scene).start
        record = self._record(name, wanted, wanted.scene, start, wanted.picture)
        self.maker.tour(record)  # raises for one that cannot be shown
        return record

    async def _entered(self, tenant: str, world: World, wanted: Opening) -> Record:
        """What a session in a world that is there, or in a fork of it, is."""
        name = forked_name(world.name) if wanted.fork else world.name
        for what in ("scene", "picture", "tour", "start"):
            if getattr(wanted, what):
                raise InvalidInput(f"world {world.name!r} is there already: it is entered without {what}")
        snapshots, spec = self.maker.tier(tenant).snapshots, self.maker.model.spec
        try:
            born = await entering.known(snapshots, world.lineage.root, spec)
        except (NotFound, ChunkCorrupt) as error:
            _log.warning("how world %r was entered is not known, it has no walls: %s", world.name, error)
            return self._record(name, wanted, None, NOWHERE)
        record = self._record(name, wanted, born.scene, born.start, born.picture)
        return await entering.whole(snapshots, replace(record, elsewhere=born.elsewhere), spec)

    def _record(self, name: str, wanted: Opening, scene: str | None, start: Walker, picture: bytes = b"") -> Record:
        """What a session is that is opened so. Raises InvalidInput for a memory that cannot be."""
        record = Record(
            world=name,
            heads=(),
            scene=scene,
            start=start,
            seed=wanted.seed,
            mode=wanted.mode,
            lockstep=wanted.lockstep,
            format=wanted.format,
            tour=wanted.tour,
            next=0,
            walker=start,
            judged=wanted.judged,
            picture=picture,
        )
        return self.maker.chosen(record, wanted.change)

    async def _admit(self, session: str, config: SessionConfig) -> None:
        """Make sure that there is room for a session; idle ones are suspended for it."""
        engine = self.maker.engine
        if len(self._sessions) >= self.config.most and session not in self._sessions:
            self.metrics.refused()
            raise OverBudget(f"{len(self._sessions)} sessions are open here, as many as may")
        while True:
            try:
                return engine.admit(session, config, self.maker.coding)
            except OverBudget:
                if not await self._yielded(session):
                    self.metrics.refused()
                    raise

    async def _yielded(self, to: str) -> bool:
        """Suspend the session that has done nothing for longest; False if all are busy."""
        since = monotonic() - YIELD_SECONDS
        for walking in sorted(self, key=lambda each: each.active):
            awake = walking.resident.session is not None and walking.resident.id != to
            if awake and walking.idle and walking.active < since:
                async with walking.lock:
                    try:
                        await walking.suspend()
                    except WorldKVError as error:
                        _log.warning("session %s stays awake: %s", walking.resident.id, error)
                        continue
                return True
        return False

    def _walks(self, resident: Resident) -> Walking:
        walking = Walking(resident, self.config, self.metrics)
        self._sessions[resident.id] = self._watched[walking.watch] = walking
        walking.task.add_done_callback(lambda task: self._ended(walking, task))
        return walking

    def _ended(self, walking: Walking, task: asyncio.Task[None]) -> None:
        """A session's task has ended: it was closed, is somebody else's, or there is a defect."""
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            _log.error("session %s ended by a defect", walking.resident.id, exc_info=error)
            self.metrics.lost()
            walking.end(Unavailable(f"session {walking.resident.id} ended here: resume it"))
        if self._sessions.get(walking.resident.id) is walking:
            del self._sessions[walking.resident.id]
        ending = self._ending[walking.resident.id] = asyncio.create_task(walking.resident.let_go())
        ending.add_done_callback(lambda _: self._ending.pop(walking.resident.id))

    async def _gone(self, session: str) -> None:
        """Wait until a session that has ended here has let go of everything, its place in the engine too."""
        if session in self._sessions:
            await asyncio.wait([self._sessions[session].task])
        if session in self._ending:
            await asyncio.wait([self._ending[session]])
