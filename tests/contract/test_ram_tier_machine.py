"""Random commands of two tenants to a RAM tier and to plain dicts: they agree, nothing leaks, nobody is robbed."""

from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.kvstore.ram import Held, RamConfig, RamTier, Reservation
from tests.contract.ram_tier import read, write
from worldkv.chunk import ChunkKey
from worldkv.errors import Conflict, NotFound, OverBudget
from worldkv.format import Frame
from worldkv.shared import ArenaReader, Extent
from worldkv.store import Miss, PartKey

Parts = dict[tuple[str, PartKey], bytes]
TENANTS = ["ann", "bob"]
BRANCHES = [b"a" * 16, b"b" * 16]
tenants = st.sampled_from(TENANTS)
keys = st.builds(
    PartKey, st.builds(ChunkKey, st.sampled_from(BRANCHES), st.integers(0, 2)), st.sampled_from(["part", "kv", "kv"])
)
mortal = keys.filter(lambda key: key.kind == "kv" or key.chunk.index == 0)  # else soon nothing can be put any more
sizes = st.integers(0, 50)


class TierMachine(RuleBasedStateMachine):
    """Everything is counted in grains of bytes, so that the same commands strain budgets or the arena itself."""

    grain, budget, limit = 1, 100, 70

    def __init__(self):
        super().__init__()
        self.tier = RamTier(
            RamConfig(self.budget * self.grain, self.limit * self.grain, prefix="worldkv-machine", max_evicted=10_000)
        )
        self.reader = ArenaReader(self.tier.arena.info)
        self.held: Parts = {}
        self.safe: set[tuple[str, PartKey]] = set()
        self.why: dict[tuple[str, PartKey], Miss] = {}
        self.deleted: set[tuple[str, ChunkKey]] = set()
        self.open: list[tuple[str, PartKey, Reservation]] = []
        self.pins: list[tuple[str, PartKey, ExitStack, Held, bytes]] = []
        self.plans: dict[tuple[Extent, ...], int] = {}  # checksums of all parts that ever were
        self.stamp = 0

    def teardown(self):
        for _, _, stack, _, _ in self.pins:
            stack.close()
        for _, _, room in self.open:
            room.abort()
        self.reader.close()
        for tenant in TENANTS:
            self.tier.delete(tenant, [PartKey(ChunkKey(b, n), "part") for b in BRANCHES for n in range(3)])
        self.tier.check_integrity()
        stats = self.tier.stats()
        assert (stats.used_bytes, stats.parts, stats.slots_used, stats.tenants) == (0, 0, 0, {})
        assert stats.free_bytes == self.tier.arena.capacity
        self.tier.close()

    def data(self, size: int) -> bytes:
        self.stamp += 1
        return (self.stamp.to_bytes(4, "little") * (size // 4 + 1))[:size]

    @rule(tenant=tenants, asked=st.dictionaries(keys, sizes, max_size=3))
    def reserve(self, tenant, asked):
        self.make_room(tenant, asked, at_once=False)

    @rule(tenant=tenants, asked=st.dictionaries(keys, sizes, max_size=3))
    def put(self, tenant, asked):
        self.make_room(tenant, asked, at_once=True)

    @rule(tenant=tenants, key=keys, size=st.integers(20, 50), safe=st.booleans())
    def put_one(self, tenant, key, size, safe):
        key = key._replace(chunk=key.chunk._replace(index=1))  # a chunk that nobody deletes
        self.make_room(tenant, {key: size}, at_once=True)
        self.mark_safe_as(tenant, key, safe)

    def make_room(self, tenant: str, asked: dict[PartKey, int], at_once: bool) -> None:
        wanted = {key: n * self.grain for key, n in asked.items()}
        before = self.contents()
        try:
            rooms = self.tier.reserve_all(tenant, wanted)
        except Conflict:
            assert any((tenant, key.chunk) in self.deleted for key in wanted)
            assert self.contents() == before
            return
        except OverBudget:
            assert self.contents() == before
            assert not self.could_fit(tenant, wanted), "room could have been made"
            return
        assert not any((tenant, key.chunk) in self.deleted for key in wanted)
        self.check_victims(tenant, wanted, before)
        for key, room in rooms.items():
            if (tenant, key) in before:
                assert read(room) == self.held[tenant, key]
            else:
                self.open.append((tenant, key, room))
                if at_once:
                    self.finish(len(self.open) - 1)

    def check_victims(self, tenant: str, wanted: dict[PartKey, int], before: Parts) -> None:
        for victim in before.keys() - self.contents().keys():
            assert not any(
                part.dropped and (t, key) == victim and read(part) == before[victim] != b""
                for t, key, _, part, _ in self.pins
            ), "what is read made room"
            assert victim[1].kind == "kv" or (victim in self.safe and all(k.kind == "part" for k in wanted))
            assert victim[0] == tenant or victim in self.safe, "a tenant lost its last copy to another"
            assert not (victim[0] == tenant and victim[1] in wanted)
            self.forget(victim, Miss.EVICTED)

    def could_fit(self, tenant: str, wanted: dict[PartKey, int]) -> bool:
        new = {key: size for key, size in wanted.items() if (tenant, key) not in self.held}
        pinned = {id(part) for _, _, _, part, _ in self.pins}
        only_parts = all(key.kind == "part" for key in new)
        loose = [
            each
            for each in self.held
            if id(self.tier._ledger.held[each]) not in pinned
            and not (each[0] == tenant and each[1] in wanted)
            and (
                (each[1].kind == "kv" and (each[0] == tenant or each in self.safe))
                or (only_parts and each in self.safe)
            )
        ]
        stays = [*(n for each in self.held if each not in loose for n in [len(self.held[each])])]
        stays += [room.size for _, _, room in self.open]
        gone = {id(part): part.size for _, _, _, part, _ in self.pins if part.dropped}
        stays += gone.values()
        mine = [len(self.held[each]) for each in self.held if each[0] == tenant and each not in loose]
        mine += [room.size for t, _, room in self.open if t == tenant]
        rounded = self.tier.arena.rounded
        return (
            sum(stays) + sum(new.values()) <= self.budget * self.grain
            and sum(mine) + sum(new.values()) <= self.limit * self.grain
            and sum(map(rounded, (*stays, *new.values()))) <= self.tier.arena.capacity
        )

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data):
        self.finish(data.draw(st.integers(0, len(self.open) - 1)))

    def finish(self, at: int) -> None:
        tenant, key, room = self.open.pop(at)
        content = self.data(room.size)
        if (tenant, key.chunk) in self.deleted:
            with pytest.raises(Conflict, match="stays deleted"):
                write(room, Frame.of(content))
            return
        part = write(room, Frame.of(content))
        self.plan(part)
        assert read(part) == self.held.setdefault((tenant, key), content)
        self.why.pop((tenant, key), None)
        with pytest.raises(Conflict, match="given back"):
            room.commit(0)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data):
        _, _, room = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        room.abort()
        room.abort()

    @rule(tenant=tenants, key=keys)
    def find(self, tenant, key):
        found = self.tier.find(tenant, key)
        if (tenant, key) in self.held:
            assert read(found) == self.held[tenant, key]
        elif (tenant, key.chunk) in self.deleted:
            assert found is Miss.DELETED
        else:
            assert found is self.why.get((tenant, key), Miss.NEVER_STORED)

    @rule(tenant=tenants, doomed=st.lists(mortal, max_size=3))
    def delete(self, tenant, doomed):
        self.deleted |= {(tenant, key.chunk) for key in doomed if key.kind == "part"}
        gone = [e for e in self.held if e[0] == tenant and (e[1] in doomed or (tenant, e[1].chunk) in self.deleted)]
        assert self.tier.delete(tenant, doomed) == len(gone)
        for each in gone:
            self.forget(each, Miss.EVICTED)

    @precondition(lambda self: self.held and len(self.pins) < 3)
    @rule(data=st.data())
    def pin(self, data):
        tenant, key = data.draw(st.sampled_from(sorted(self.held)))
        part = self.tier.find(tenant, key)
        stack = ExitStack()
        stack.enter_context(part.pin())
        self.pins.append((tenant, key, stack, part, read(part)))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data):
        _, _, stack, part, content = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        assert read(part) == content, "bytes changed under a pin"
        stack.close()
        if part.dropped and not part.pins:
            with pytest.raises(NotFound), part.pin():
                pass

    @rule(tenant=tenants, key=keys, safe=st.booleans())
    def mark_safe(self, tenant, key, safe):
        self.mark_safe_as(tenant, key, safe)

    def mark_safe_as(self, tenant: str, key: PartKey, safe: bool) -> None:
        self.tier.mark_safe(tenant, key, safe)
        if (tenant, key) in self.held:
            (self.safe.add if safe else self.safe.discard)((tenant, key))

    @rule()
    def lose_what_was_safe(self):
        self.tier.mark_none_safe()
        self.safe.clear()

    @rule(tenant=tenants, key=keys)
    def spoil(self, tenant, key):
        self.tier.mark_corrupt(tenant, key)
        if (tenant, key) in self.held:
            self.forget((tenant, key), Miss.CORRUPT)

    @rule(tenant=tenants, branch=st.sampled_from(BRANCHES), begin=st.integers(0, 4), end=st.none() | st.integers(0, 4))
    def scan(self, tenant, branch, begin, end):
        seen = self.tier.scan(tenant, branch, begin, end)
        wanted = [
            key
            for name, key in self.held
            if name == tenant
            and key.chunk.branch == branch
            and key.chunk.index in range(begin, 9 if end is None else end)
        ]
        assert seen == sorted(wanted, key=lambda key: (key.chunk.index, key.kind == "kv"))
        assert self.tier.scan(tenant, branch, begin, end, "kv") == [key for key in seen if key.kind == "kv"]

    @invariant()
    def is_whole(self):
        self.tier.check_integrity()
        assert self.contents() == self.held
        assert {(t, key) for t, key in self.tier.last_copies()} == self.held.keys() - self.safe

    @invariant()
    def readers_see_what_is_held_and_nothing_else(self):
        alive = {part.extents for part in (*self.tier._ledger.held.values(), *self.tier._pinned)}
        for extents, checksum in self.plans.items():
            into = [memoryview(bytearray(sum(extent.length for extent in extents)))]
            assert self.reader.copy(extents, into, checksum) is (None if extents in alive else Miss.EVICTED)

    def plan(self, part: Held) -> None:
        """A reader was told where a part lies."""
        if part.extents:
            self.plans[part.extents] = part.checksum

    def forget(self, each: tuple[str, PartKey], reason: Miss) -> None:
        del self.held[each]
        self.safe.discard(each)
        self.why[each] = reason

    def contents(self) -> Parts:
        """What is held, looked at behind the interface: asking would change what was used last."""
        return {each: read(part) for each, part in self.tier._ledger.held.items()}


class FullArenaMachine(TierMachine):
    """Parts whose sizes are odd: what they are rounded up by fills the arena before the budget is."""

    grain, budget, limit = 10 * 1024 + 1, 100, 70


@pytest.mark.parametrize("machine", [TierMachine, FullArenaMachine])
def test_random_commands_agree_with_a_dict(machine):
    case = machine.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
    case().runTest()
