"""Which parts are held, by tenant and by use, how many bytes they are, and which of them make room for others."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from services.kvstore.held import Held
from worldkv.chunk import Branch
from worldkv.format import Kind
from worldkv.store import PartKey

KINDS: tuple[Kind, ...] = ("part", "kv")


class Group(OrderedDict[PartKey, Held]):
    """Parts of a tenant that are treated alike, least recently used first.

    nbytes  of all of them
    """

    nbytes = 0


class Tenant:
    """What one tenant has.

    groups    parts held, by kind and by whether a copy exists elsewhere
    reserved  bytes of room for parts that are being written
    """

    def __init__(self) -> None:
        self.groups = {(kind, safe): Group() for kind in KINDS for safe in (True, False)}
        self.reserved = 0

    @property
    def used(self) -> int:
        """Bytes of its parts."""
        return sum(group.nbytes for group in self.groups.values())


@dataclass
class Short:
    """How much more room is needed; not positive where there is enough.

    own     bytes of the tenant's own limit
    budget  bytes of the shard's budget
    arena   bytes of the arena, rounded as it rounds parts
    slots   entries of the table of generations
    """

    own: int
    budget: int
    arena: int
    slots: int

    @property
    def shared(self) -> bool:
        """Short of something that is the shard's."""
        return max(self.budget, self.arena, self.slots) > 0


class Ledger:
    """Parts that are held.

    held        by tenant and key
    tenants     who has a part, or room for one
    used_bytes  of all parts
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, PartKey], Held] = {}
        self.tenants: dict[str, Tenant] = {}
        self.used_bytes = 0
        self._branches: dict[tuple[str, Branch], set[PartKey]] = {}
        self._uses = 0

    def tenant(self, name: str) -> Tenant:
        """A tenant's account; one that is not listed if there is none."""
        return self.tenants.get(name) or Tenant()

    def add(self, part: Held) -> None:
        """A part is held from now on."""
        self.held[part.tenant, part.key] = part
        self._branches.setdefault((part.tenant, part.key.chunk.branch), set()).add(part.key)
        self.used_bytes += part.size
        self._enter(part)

    def remove(self, part: Held) -> None:
        """A part is held no longer."""
        del self.held[part.tenant, part.key]
        branch = part.tenant, part.key.chunk.branch
        self._branches[branch].remove(part.key)
        if not self._branches[branch]:
            del self._branches[branch]
        self.used_bytes -= part.size
        self._leave(part)
        self._tidy(part.tenant)

    def touch(self, part: Held) -> None:
        """A part was used."""
        self._uses += 1
        part.used = self._uses
        self.tenants[part.tenant].groups[part.key.kind, part.safe].move_to_end(part.key)

    def reserve(self, name: str, size: int) -> None:
        """A tenant has room for `size` bytes more, or for less if negative."""
        self.tenants.setdefault(name, Tenant()).reserved += size
        self._tidy(name)

    def mark_safe(self, part: Held, safe: bool) -> None:
        """Whether a copy of a part exists elsewhere."""
        self._leave(part)
        part.safe = safe
        self._enter(part)

    def mark_none_safe(self) -> None:
        """No part has a copy elsewhere."""
        for tenant in self.tenants.values():
            for kind in KINDS:
                safe, last = tenant.groups[kind, True], tenant.groups[kind, False]
                for part in safe.values():
                    part.safe = part.below = False
                merged = Group(sorted((*safe.items(), *last.items()), key=lambda item: item[1].used))
                merged.nbytes = safe.nbytes + last.nbytes
                tenant.groups[kind, True], tenant.groups[kind, False] = Group(), merged

    def branch(self, name: str, branch: Branch) -> Collection[PartKey]:
        """Keys held of a branch, in no order."""
        return self._branches.get((name, branch), ())

    def victims(
        self, name: str, short: Short, asked: Collection[PartKey], kv: bool, spare: bool, rounded: Callable[[int], int]
    ) -> list[Held]:
        """Parts to drop for a tenant until `short`, which is counted down, is not short: or too few, if not all of it
        can be had.

        asked    the tenant's own keys that must stay
        kv       room is made for KV: no immutable part may go
        spare    no part may go that has no copy elsewhere
        rounded  bytes that a part takes in the arena

        Safe KV goes first, whosever it is, then the tenant's own KV, then safe immutable parts.
        """
        chosen: dict[Held, None] = {}
        if short.own <= 0 and not short.shared:
            return []
        for own in (True, False):
            rows = list(self._rows(self.tenant(name), kv, spare, own))
            within_reach = sum(group.nbytes for row in rows for group in row)
            if (short.own if own else short.budget) > within_reach:
                break  # do not look through all of it for nothing
            for part in chain.from_iterable(heapq.merge(*map(Group.values, row), key=_used) for row in rows):
                if not (short.own > 0 if own else short.shared):
                    break
                if part not in chosen and not part.pins and not (part.tenant == name and part.key in asked):
                    chosen[part] = None
                    short.own -= part.size if part.tenant == name else 0
                    short.budget -= part.size
                    short.arena -= rounded(part.size)
                    short.slots -= part.size > 0
        return list(chosen)

    def check_integrity(self) -> None:
        """Assert that parts, groups, branches and counts fit together."""
        assert self.used_bytes == sum(part.size for part in self.held.values())
        assert self.held.keys() == {(name, key) for (name, _), keys in self._branches.items() for key in keys}
        assert all(self._branches.values()), "a branch is listed that holds nothing"
        grouped = list(chain.from_iterable(self._check(name, tenant) for name, tenant in self.tenants.items()))
        assert len(grouped) == len(set(grouped)) == len(self.held)

    def _check(self, name: str, tenant: Tenant) -> Iterator[Held]:
        assert tenant.reserved or any(tenant.groups.values()), "a tenant is listed that has nothing"
        for (kind, safe), group in tenant.groups.items():
            assert group.nbytes == sum(part.size for part in group.values())
            uses = [part.used for part in group.values()]
            assert uses == sorted(uses), "a group is not in order of use"
            for key, part in group.items():
                assert self.held[name, key] is part
                assert (key, kind, safe, name) == (part.key, part.key.kind, part.safe, part.tenant)
            yield from group.values()

    def _rows(self, mine: Tenant, kv: bool, spare: bool, own: bool) -> Iterable[list[Group]]:
        """Groups that may make room, those first that go first; least recently used first within each row."""
        everybody = [mine] if own else list(self.tenants.values())
        yield [tenant.groups["kv", True] for tenant in everybody]
        if not spare:
            yield [mine.groups["kv", False]]
        if not kv:
            yield [tenant.groups["part", True] for tenant in everybody]

    def _enter(self, part: Held) -> None:
        group = self.tenants.setdefault(part.tenant, Tenant()).groups[part.key.kind, part.safe]
        group[part.key] = part
        group.nbytes += part.size
        self.touch(part)

    def _leave(self, part: Held) -> None:
        group = self.tenants[part.tenant].groups[part.key.kind, part.safe]
        del group[part.key]
        group.nbytes -= part.size

    def _tidy(self, name: str) -> None:
        """Forget a tenant that has nothing."""
        tenant = self.tenants[name]
        if not tenant.reserved and not any(tenant.groups.values()):
            del self.tenants[name]


def _used(part: Held) -> int:
    return part.used
