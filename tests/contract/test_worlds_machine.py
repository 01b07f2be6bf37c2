"""Random forks, rewinds, removals and sweeps against a model; alone, and interleaved at every call they make."""

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.contract.test_store_machine import run
from worldkv.catalog import RamCatalog, Stored, World
from worldkv.chunk import Branch, ChunkKey
from worldkv.errors import AlreadyExists, Conflict, NotFound
from worldkv.format import Frame, join
from worldkv.store import PartKey, RamStore
from worldkv.worlds import HIDDEN, begin, fork, length, remove, sweep

NAMES = ["a", "b", "c"]
names = st.sampled_from(NAMES)


def held(store: RamStore) -> dict[PartKey, bytes]:
    return {key: join(frame) for key, frame in {**store._parts, **store._kv}.items()}


def live(catalog: RamCatalog) -> dict[str, World]:
    return {name: world for name, world in catalog._worlds.items() if not name.startswith(HIDDEN)}


class WorldsMachine(RuleBasedStateMachine):
    """The model: what each world's chunks should read as, and which heads no world has any more."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.catalog = RamStore(1 << 30), RamCatalog()
        self.worlds: dict[str, list[bytes]] = {}
        self.dead: list[tuple[Branch, int]] = []
        self.written = 0

    def put(self, chunk: ChunkKey) -> bytes:
        self.written += 1
        text = b"%d" % self.written
        run(self.store.put({PartKey(chunk, kind): Frame.of(text) for kind in ("part", "kv")}))
        return text

    @rule(name=names)
    def begin(self, name: str) -> None:
        try:
            run(begin(self.catalog, name))
        except AlreadyExists:
            assert name in self.worlds
        else:
            assert name not in self.worlds
            self.worlds[name] = []

    @rule(name=names, count=st.integers(1, 3))
    def walk(self, name: str, count: int) -> None:
        if name in self.worlds:
            head = live(self.catalog)[name].lineage.head
            for _ in range(count):
                self.worlds[name].append(self.put(ChunkKey(head, len(self.worlds[name]))))

    @rule(name=names, at=st.none() | st.integers(0, 8), into=st.none() | names)
    def fork(self, name: str, at: int | None, into: str | None) -> None:
        before = live(self.catalog).get(name)
        try:
            made = run(fork(self.store, self.catalog, name, at, into)).world
        except NotFound:
            assert name not in self.worlds or (at or 0) > len(self.worlds[name])
        except AlreadyExists:
            assert into in self.worlds
        else:
            texts = self.worlds[name]
            assert made.chunks == (len(texts) if at is None else at)
            self.worlds[into or name] = texts[:at]
            if into is None and before:
                self.dead.append((before.lineage.head, len(texts)))

    @rule(name=names)
    def remove(self, name: str) -> None:
        before = live(self.catalog).get(name)
        try:
            run(remove(self.store, self.catalog, name))
        except NotFound:
            assert before is None
        else:
            assert before
            self.dead.append((before.lineage.head, len(self.worlds.pop(name))))

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def write_late(self, data: st.DataObject) -> None:
        branch, index = data.draw(st.sampled_from(self.dead))
        key = PartKey(ChunkKey(branch, index), "part")
        if key not in held(self.store) and key.chunk not in self.store._deleted:
            self.put(key.chunk)

    @rule()
    def sweep(self) -> None:
        known = {branch for world in self.catalog._worlds.values() for branch, _ in world.lineage.parts}
        before = held(self.store)
        swept = run(sweep(self.store, self.catalog))
        after = held(self.store)
        covered = {key for key in before if any(w.lineage.covers(key.chunk) for w in live(self.catalog).values())}
        assert set(after) == {key for key in before if key in covered or key.chunk.branch not in known}
        assert swept.frames == len(before) - len(after)
        assert swept.chunks == len({key.chunk for key in before}) - len({key.chunk for key in after})

    @invariant()
    def every_world_reads_as_it_was_written(self) -> None:
        worlds, contents = live(self.catalog), held(self.store)
        assert worlds.keys() == self.worlds.keys()
        for name, texts in self.worlds.items():
            lineage = worlds[name].lineage
            assert run(length(self.store, lineage)) == len(texts)
            for chunk, text in zip(lineage.keys(len(texts)), texts, strict=True):
                assert contents[PartKey(chunk, "part")] == contents[PartKey(chunk, "kv")] == text

    @invariant()
    def nothing_is_held_that_cannot_be_swept(self) -> None:
        self.store.check_integrity()

    def teardown(self) -> None:
        for _ in range(2):
            self.sweep()
        names = [name for name in self.catalog._worlds if name.startswith(HIDDEN)]
        covered = {branch for world in live(self.catalog).values() for branch, _ in world.lineage.parts}
        assert all(self.catalog._worlds[name].lineage.head in covered for name in names)


def test_random_worlds_agree_with_a_model():
    case = WorldsMachine.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
    case().runTest()


class Pause:
    """Gives control to whoever drives the coroutine by hand."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class SlowCatalog(RamCatalog):
    """A catalog that others may use before and after every call, and between any two records of a list."""

    async def read(self, name: str) -> Stored:
        await Pause()
        return await super().read(name)

    async def swap(self, name: str, expected: int, record: World) -> Stored:
        await Pause()
        stored = await super().swap(name, expected, record)
        await Pause()
        return stored

    async def remove(self, name: str, expected: int = 0) -> None:
        await Pause()
        await super().remove(name, expected)
        await Pause()

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[World]:
        while names := sorted(name for name in self._worlds if name.startswith(prefix) and name > after):
            await Pause()
            after = names[0]
            if after in self._worlds:
                yield self._worlds[after]


class SlowStore(RamStore):
    """A store that others may use before every scan and every delete."""

    async def scan(self, *which: Any, **how: Any) -> AsyncIterator[PartKey]:
        await Pause()
        async for key in super().scan(*which, **how):
            yield key

    async def delete(self, keys: Any) -> int:
        await Pause()
        return await super().delete(keys)


def interleave(data: st.DataObject, actors: dict[str, Callable[[], Coroutine[Any, Any, Any]]]) -> None:
    """Run all actors, who goes on next is drawn; some that may be cut short are."""
    waiting = {name: begin() for name, begin in actors.items()}
    try:
        take_turns(data, waiting)
    finally:  # drawing may end an example anywhere
        for each in waiting.values():
            each.close()


def take_turns(data: st.DataObject, waiting: dict[str, Coroutine[Any, Any, Any]]) -> None:
    while waiting:
        name = data.draw(st.sampled_from(sorted(waiting)))
        try:
            waiting[name].send(None)
        except StopIteration:
            del waiting[name]
        except (AlreadyExists, Conflict, NotFound):
            del waiting[name]
        else:
            if not name.startswith("fork") and data.draw(st.integers(0, 30)) == 30:
                waiting.pop(name).close()


def alone(coroutine: Coroutine[Any, Any, Any]) -> Any:
    while True:
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whoever_comes_between_no_chunk_of_a_world_is_lost_and_none_is_left_over(data: st.DataObject):
    # Who comes first may depend on branch ids: with random ones a drawn order could not be played again.
    numbers = count()
    with patch("worldkv.chunk.secrets.token_bytes", lambda size: next(numbers).to_bytes(size)):
        draw_and_check(data)


def draw_and_check(data: st.DataObject) -> None:
    store, catalog = SlowStore(1 << 30), SlowCatalog()
    written: set[ChunkKey] = set()

    def write(world: World, first: int) -> None:
        chunks = {ChunkKey(world.lineage.head, index) for index in range(first, 4)}
        written.update(chunks)
        run(store.put({PartKey(chunk, "part"): Frame.of(b"x") for chunk in chunks}))

    write(alone(begin(catalog, "m")).world, 0)
    write(alone(fork(store, catalog, "m", 2, "c")).world, 2)
    actors: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {}
    for n in range(data.draw(st.integers(2, 4))):
        what, name = data.draw(st.sampled_from(["fork", "rewind", "remove", "sweep"])), data.draw(st.sampled_from("mc"))
        at = data.draw(st.integers(0, 4))
        if what == "fork":
            actors[f"fork {n}"] = partial(fork, store, catalog, name, at, data.draw(st.sampled_from("az")) + str(n))
        elif what == "rewind":
            actors[f"rewind {n}"] = partial(fork, store, catalog, name, at)
        elif what == "remove":
            actors[f"remove {n}"] = partial(remove, store, catalog, name)
        else:
            actors[f"sweep {n}"] = partial(sweep, store, catalog)
    interleave(data, actors)

    def covered() -> set[ChunkKey]:
        return {key for key in written if any(world.lineage.covers(key) for world in live(catalog).values())}

    assert covered() <= {key.chunk for key in held(store)}
    for _ in range(2):
        alone(sweep(store, catalog))
    assert {key.chunk for key in held(store)} == covered()
