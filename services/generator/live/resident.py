"""One session, whether it holds memory here or not: how it comes to be, moves between branches, sleeps and wakes.

What is known of a session is saved before its world is changed: whoever finds it knows each branch that its world may
have for a head while it is this session's. A session wakes on a new branch, so that whoever wrote the old one, here or
elsewhere, writes where nobody reads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from services.generator.live import entering, messages
from services.generator.live.inbox import NUMBERS
from services.generator.live.making import Maker
from services.generator.live.owning import Owner
from services.generator.saving import Record, Saved, decode, encode
from services.generator.session import HeldChunk, Session, SessionConfig, SessionState
from services.generator.tier import Tier
from worldkv import worlds
from worldkv.actions import Walker
from worldkv.catalog import Snapshot, Stored, World
from worldkv.chunk import Branch, Lineage, new_branch
from worldkv.errors import (
    ChunkCorrupt,
    Conflict,
    InvalidInput,
    NotFound,
    OverBudget,
    Unavailable,
    WorldKVError,
)
from worldkv.memory import Kept, Memory
from worldkv.store import Level
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import MemoryChange

Admit = Callable[[str, SessionConfig], Awaitable[None]]
"""Makes sure that there is room for a session; raises OverBudget."""

_log = logging.getLogger(__name__)


class Resident:
    """A session by its id, and the tier that keeps its world.

    record   what is saved of it; `next` and `walker` are as they were when it was saved last
    world    record of its world as it was when the session got its branch
    session  None while it sleeps
    counts   how the memories that it had before have served it
    owner    of its world
    unsettled  whether it was taken back, or was not: it finds out when it wakes
    listener  is told when its memory changes behind its back
    """

    def __init__(self, id: str, tenant: str, maker: Maker, admit: Admit, record: Record) -> None:
        self.id, self.tenant, self.maker, self._admit, self.record = id, tenant, maker, admit, record
        self.world = World(record.world, Lineage.begin())
        self.session: Session | None = None
        self.counts = pb.RecallCounts()
        self.owner, self.unsettled = Owner(id, lambda: self._tier.worlds), False
        self.listener: Callable[[], None] = _nobody
        self._kept = Kept(0, Level.ONE)

    @property
    def memory(self) -> Memory | None:
        """Of its world, while it is awake."""
        return self.session.memory if self.session else None

    @property
    def next(self) -> int:
        """Number of the next chunk."""
        return self.session.next if self.session else self.record.next

    @property
    def walker(self) -> Walker:
        """Where the walker stands."""
        return self.session.walker if self.session else self.record.walker

    @property
    def kept(self) -> Kept:
        """How far the world is safe."""
        return self.memory.kept if self.memory else self._kept

    @property
    def refused(self) -> WorldKVError | None:
        """Why something that was drawn will never be kept; None: all is well."""
        return self.owner.gone or (self.memory.refused if self.memory else None)

    async def begin(self) -> None:
        """Begin a new world. Raises AlreadyExists, OverBudget if there is no room, and InvalidInput for a subject that
        the model cannot be told."""
        try:
            await self._admit(self.id, self.maker.walking(self.record))
            await self.maker.hear(self.record)  # what cannot be told leaves no world
            branch, tier = new_branch(), self._tier
            self.record = await entering.keep(tier.snapshots, replace(self.record, heads=(branch,)), branch)
            await self._save(self.record)
            spec = self.maker.model.spec.digest
            await self._stand(await worlds.begin(tier.worlds, self.record.world, spec, branch), None)
        finally:
            await self._undo()

    async def enter(self, at: int | None, source: str) -> None:
        """Walk on in a world that is there, before chunk `at`; None: after its last.

        source  its name; if it is not the session's world, that is forked from it

        Raises what `worlds.fork` does, and OverBudget if there is no room.
        """
        try:
            await self._admit(self.id, self.maker.walking(self.record))
            await self._stand(await self._fork(at, self.record, source), None)
        finally:
            await self._undo()

    async def wake(self) -> None:
        """Hold memory again, after the last chunk that is kept; nothing if it is awake.

        Raises NotFound if nothing is known of the session, Conflict if another one has taken over its world, OverBudget
        if there is no room, and what the tier raises.
        """
        if self.session is not None:
            return
        failed: list[WorldKVError] = []
        for previous in (False, True):
            try:
                snapshot = await self._tier.snapshots.load(self.id, previous)
                await self._wake(await asyncio.to_thread(decode, snapshot.state, self.maker.model.spec))
            except (ChunkCorrupt, Conflict, NotFound) as error:
                _log.info("session %s does not wake from a state of its own: %s", self.id, error)
                failed.append(error)
            else:
                return
        raise failed[0]

    async def confirm(self) -> None:
        """Look whether the world is still this session's: a generator that was silent for long may have been taken for
        dead, and its sessions resumed elsewhere.

        Raises Conflict if another one has taken it over. If nobody can say so just now it is taken for granted, but for
        one that is doubted: then raises Unavailable.
        """
        await self.owner.confirm(self.record.world, self.record.heads)

    async def sleep(self) -> None:
        """Let go of all memory, once everything is kept and the state is saved; nothing if it sleeps.

        Raises Unavailable if it cannot be kept now: then it stays awake; Conflict if the world is another one's by now.
        """
        if self.session is None:
            return
        await self.confirm()  # else what is saved would take the place of what another one saves
        await self._settled()
        state = await self.maker.engine.run(self.session.save)
        record = replace(self.record, next=state.next, walker=state.walker)
        try:
            await self._save(record, state)
        except (OverBudget, InvalidInput) as error:  # everything is kept: a record is enough
            _log.warning("session %s is kept without its state: %s", self.id, error)
            await self._save(record)
        self.record = record
        await self.let_go()

    def require_before(self, at: int) -> None:
        """Raises InvalidInput unless the session can be taken back to before chunk `at`."""
        if at > self.next:
            raise InvalidInput(f"the next chunk can be 0 to {self.next}, got {at}")

    async def configure(self, change: MemoryChange, number: int = 0) -> None:
        """Remember otherwise from the next chunk on, here and wherever the session comes to be; `number`: the client's.

        While it sleeps that is only noted. Raises InvalidInput for what cannot be, OverBudget without room for it,
        Conflict, Unavailable: then nothing has changed.
        """
        before, record = self.record, self.maker.chosen(self.record, change)
        if number:
            record = replace(record, numbers=(*record.numbers, number)[-NUMBERS:])
        if self.session is None:
            await self._save(record)
        else:
            await self._reconfigure(self.session, before, record)
        self.record = record

    async def _reconfigure(self, session: Session, before: Record, record: Record) -> None:
        maker, held, other = self.maker, session.held, record.mode != before.mode
        if other:
            maker.engine.change(self.id, maker.walking(record), maker.coding, session.next)
        saved = False
        try:
            if other:
                await self._settled()  # what the window is to hold may not be in the store yet
                known = {each.index: each for each in held}
                held = await maker.rebuilder(record, self._tier.store, session.lineage).held(session.next, known)
            await self._save(record)
            saved = True
        finally:
            if other and not saved:
                with suppress(OverBudget):  # somebody else has come: it is only counted as more than it takes
                    maker.engine.change(self.id, maker.walking(before), maker.coding, session.next)
        session.configure(maker.walking(record), held)
        assert session.memory is not None, "a live session has a memory"
        session.memory.configure(maker.remembering(record))
        session.memory.finder.choose_by(maker.settings(record).selector)

    async def rewind(self, at: int) -> None:
        """Stand before chunk `at`, on a new branch; a tour is over. See `require_before`."""
        await self._settled()
        before = await self.maker.engine.run(self.session.save) if self.session is not None else None
        known = {each.index: each for each in before.held if each.index < at} if before else {}
        walker = self.walker if at == self.next else await self._walker_at(self.world.lineage, at)
        record = replace(self.record, tour="", next=at, walker=walker)
        branch = await self._announced(record)  # if that cannot be, nothing has changed
        await self._release()
        self.unsettled = True
        try:
            stored = await self._fork(at, record, branch=branch)
            if before is None:
                self._note(stored)
            else:
                await self._stand(stored, before if at == before.next else None, known)
        finally:
            if self.session is None:  # it sleeps, and takes no room
                self.maker.engine.forget(self.id)

    async def fork(self, name: str, at: int | None) -> World:
        """A second name for the world before chunk `at`, None: after the last that is kept.

        Raises InvalidInput past the last chunk, AlreadyExists, Conflict if the world is another session's by now.
        """
        end, tier, branch = self.kept.end if at is None else at, self._tier, new_branch()
        if end > self.next:
            raise InvalidInput(f"chunk {self.next} is the next: a fork cannot end before chunk {end}")
        if end > self.kept.end:
            await self._settled()
        into = name or forked_name(self.record.world)
        stored = await worlds.fork(
            tier.store, tier.worlds, self.record.world, end, into, heads=self.record.heads, branch=branch
        )
        if not end:
            await entering.keep(tier.snapshots, self.record, branch)
        return stored.world

    async def end(self) -> Kept:
        """End the session once all its chunks are kept; answers how safe they are."""
        if self.session is not None:
            await self._settled()
        kept, catalog = self.kept, self._tier.worlds
        with suppress(NotFound, Conflict):  # it is somebody else's by now
            stored = await catalog.read(self.record.world)
            if stored.world.lineage.head in self.record.heads:
                version, chunks = stored.world.version, max(stored.world.chunks, kept.end)
                self.world = replace(stored.world, version=version + 1, chunks=chunks)  # also if nobody answers
                await catalog.swap(self.world.name, version, self.world)
        await self._tier.snapshots.delete(self.id)
        await self.let_go()
        return kept

    async def let_go(self) -> None:
        """Hold no memory any more, whether everything is kept or not."""
        await self._release()
        self.maker.engine.forget(self.id)

    @property
    def _tier(self) -> Tier:
        return self.maker.tier(self.tenant)

    async def _wake(self, saved: Saved) -> None:
        """Go on from what was saved, if the world is still this session's."""
        await self._admit(self.id, self.maker.walking(saved.record))
        try:
            record = await entering.whole(self._tier.snapshots, saved.record, self.maker.model.spec)
            await self._stand(await self._fork(None, record), saved.state)
        finally:
            if self.session is None:
                self.maker.engine.forget(self.id)

    async def _announced(self, record: Record) -> Branch:
        """A new branch that the session is known to have, if the world gets it."""
        branch = new_branch()
        await self._save(replace(record, heads=(*record.heads, branch)))
        return branch

    async def _fork(self, at: int | None, record: Record, source: str = "", branch: Branch | None = None) -> Stored:
        """A new branch before chunk `at`, for a session of this record, of its world or of the one that this is forked
        from. Raises what `worlds.fork` does.

        branch  that was announced already
        """
        branch = branch or await self._announced(record)
        tier, heads, name = self._tier, record.heads, source or record.world
        spec, into = self.maker.model.spec.digest, None if name == record.world else record.world
        stored = await worlds.fork(tier.store, tier.worlds, name, at, into, spec, heads, branch)
        self.record = replace(record, heads=(branch,))
        if stored.world.lineage.root == branch:
            self.record = await entering.keep(tier.snapshots, self.record, branch)
        return stored

    def _note(self, stored: Stored) -> None:
        """A new branch is this session's."""
        self.unsettled = False
        self.owner.stands()
        end = stored.world.chunks
        self.world, self._kept = stored.world, Kept(end, stored.level if end else Level.REDIS)

    async def _stand(
        self, stored: Stored, state: SessionState | None, known: Mapping[int, HeldChunk] | None = None
    ) -> None:
        """Be awake on a new branch: as a state says, if it is of where the branch begins, else from what is kept.

        known  chunks that are at hand uncoded
        """
        self._note(stored)
        world, maker = stored.world, self.maker
        if self.record.mode == "full":
            maker.engine.change(self.id, maker.walking(self.record), maker.coding, world.chunks)
        memory = maker.memory(self.tenant, self.record, world.lineage, self._kept, lambda: self.owner.ours(self.world))
        fits = state if state is not None and state.next == world.chunks else None
        session = await self._as_saved(fits, memory) if fits else None
        if session is None:
            walker = await self._walker_at(world.lineage, world.chunks)
            self.record = replace(self.record, next=world.chunks, walker=walker)
            session = await maker.rebuilt(self.record, memory, known)
        memory.listener = self.listener
        self.session = session

    async def _as_saved(self, state: SessionState, memory: Memory) -> Session | None:
        """The session of a state; None if that is damaged: what the world holds is enough to go on from."""
        try:
            return await self.maker.restored(self.record, state, memory)
        except ChunkCorrupt as error:
            _log.warning("session %s goes on without the state that was saved: %s", self.id, error)
            return None

    async def _walker_at(self, lineage: Lineage, following: int) -> Walker:
        """Where the walker stands before a chunk of this world."""
        if not following:
            return self.record.start
        part = await self.maker.rebuilder(self.record, self._tier.store, lineage).part(following - 1)
        return Walker.of(part.meta.poses[-1])

    async def _settled(self) -> None:
        """Wait until everything is kept. Raises Unavailable if that takes too long, and why something never will be."""
        if self.memory is None:
            return
        try:
            async with asyncio.timeout(self.maker.config.live.settle_seconds):
                await self.memory.settle()
        except TimeoutError as error:
            raise Unavailable(f"{self.memory.unkept} chunks of world {self.record.world!r} are not kept yet") from error
        if self.refused is not None:
            raise self.refused

    async def _save(self, record: Record, state: SessionState | None = None) -> None:
        frame = await asyncio.to_thread(encode, Saved(record, state))
        await self._tier.snapshots.save(self.id, Snapshot(record.next, frame))

    async def _release(self) -> None:
        """End the session's memory, if it is awake."""
        if self.session is None:
            return
        if self.memory is not None:
            self._kept = self.memory.kept
            self.counts = messages.counts(self.memory.stats, self.counts)
            self.memory.listener = _nobody
            await self.memory.close()
        self.record = replace(self.record, next=self.session.next, walker=self.session.walker)
        self.session = None

    async def _undo(self) -> None:
        """A session that could not be opened leaves nothing behind, if that can be had; one that was is left alone."""
        if self.session is None:
            await self.let_go()
            with suppress(WorldKVError):
                await self._tier.snapshots.delete(self.id)


def forked_name(world: str) -> str:
    """For a fork of this world that nobody has named."""
    return f"{world[:100].strip()}-{secrets.token_hex(6)}"


def _nobody() -> None:
    """Listens to nothing."""
