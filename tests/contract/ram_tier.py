"""The RAM tier of the service as a store, for one tenant: what the store contract needs to look at it."""

from collections.abc import AsyncIterator, Collection, Mapping

from services.kvstore.ram import Held, RamTier, Reservation
from worldkv.chunk import Branch
from worldkv.format import Frame, Kind
from worldkv.shared import copy_checked
from worldkv.store import Level, Miss, PartKey


def write(room: Reservation, frame: Frame) -> Held:
    """Fill a reservation and commit it."""
    return room.commit(copy_checked(frame.buffers, room.views))


def read(part: Held) -> bytes:
    """The bytes of a part, copied."""
    return b"".join(part.views)


class TierStore:
    """A store over one tenant's parts of a tier."""

    def __init__(self, tier: RamTier, tenant: str = "tenant") -> None:
        self.tier, self.tenant = tier, tenant

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        found = {key: self.tier.find(self.tenant, key) for key in keys}
        return {key: part if isinstance(part, Miss) else Frame.of(read(part)) for key, part in found.items()}

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        rooms = self.tier.reserve_all(self.tenant, {key: frame.nbytes for key, frame in items.items()})
        for key, room in rooms.items():
            if isinstance(room, Reservation):
                write(room, items[key])
        return dict.fromkeys(items, Level.ONE)

    async def delete(self, keys: Collection[PartKey]) -> int:
        return self.tier.delete(self.tenant, keys)

    async def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        for key in self.tier.scan(self.tenant, branch, begin, end, kind):
            yield key
