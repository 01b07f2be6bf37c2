"""The index as its users see it: every replica behind one client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from types import TracebackType
from typing import TypeVar

from worldkv import wire
from worldkv import wire_retriever as messages
from worldkv.chunk import Branch, ChunkKey, Lineage, Meta
from worldkv.client.membership import Members
from worldkv.client.policy import Deadline, together, walk
from worldkv.client.retriever_finder import RemoteFinder
from worldkv.client.retriever_replicas import Replica, Replicas, RetrieverClientConfig, told
from worldkv.errors import DeadlineExceeded, Unavailable, WorldKVError
from worldkv.v1 import retriever_pb2 as pb
from worldkv.wire_retriever import Found, Lookup

T = TypeVar("T")


@dataclass(frozen=True)
class ReplicaStats:
    """What a replica says of itself.

    branches  with at least one chunk
    chunks    of all branches
    rebuilt   branches read back from the store since it started
    nbytes    of the tables that hold the chunks
    """

    replica: str
    branches: int
    chunks: int
    rebuilt: int
    nbytes: int


class RetrieverClient:
    """The index over all replicas.

        async with RetrieverClient(fixed("127.0.0.1:7080")) as client: ...

    A world is held by one replica, see `Replicas`. All calls but `stats` raise Unavailable if it does not answer, or
    says that the store does not; DeadlineExceeded; and what it raised.

    counters  what happened since it was made: `failures`, calls that a replica did not answer
    """

    def __init__(self, members: Members, config: RetrieverClientConfig | None = None) -> None:
        self.config = config or RetrieverClientConfig()
        self.replicas = Replicas(members, self.config)
        self.counters = self.replicas.counters

    async def __aenter__(self) -> RetrieverClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self.replicas.close()

    async def nearest(
        self, lookups: Sequence[Lookup], *, deadline_seconds: float | None = None
    ) -> list[Found | WorldKVError]:
        """The chunks for each lookup, in their order; an error in the place of one that could not be answered.

        Raises the first of them if none could.
        """
        deadline, answers = self._deadline(deadline_seconds), dict[int, Found | WorldKVError]()

        async def ask(replica: Replica, numbers: list[int]) -> None:
            async def some(part: list[int]) -> None:
                request = pb.NearestRequest(queries=(messages.lookup_message(lookups[n]) for n in part))
                try:
                    async with replica.line.calling("nearest", deadline) as watch:
                        answer = await replica.stub.Nearest(request, **watch.limits)
                    answers.update(zip(part, messages.answers_of(answer), strict=True))
                except WorldKVError as error:
                    answers.update(dict.fromkeys(part, error))
                    if isinstance(error, Unavailable) and not told(error):
                        for n in part:
                            silent.add(n)

            silent = set[int]()
            weights = [messages.lookup_bytes(lookups[n]) for n in numbers]
            await together(some(part) for part in _batches(numbers, weights, messages.MAX_QUERIES))
            if silent:
                raise Unavailable(f"retriever {replica.member.name} does not answer")

        def done(n: int) -> bool:
            answer = answers.get(n)
            return answer is not None and not (isinstance(answer, Unavailable) and not told(answer))

        routes = {n: [self.replicas.of(lookup.lineage)] for n, lookup in enumerate(lookups)}
        await walk(routes, ask, done, self.config.retry, deadline)
        found = [answers.get(n) or _late(deadline) for n in range(len(lookups))]
        if found and all(isinstance(each, WorldKVError) for each in found):
            raise next(each for each in found if isinstance(each, WorldKVError))
        return found

    async def add(self, lineage: Lineage, metas: Sequence[Meta], *, deadline_seconds: float | None = None) -> int:
        """Make chunks of a world findable, after their immutable parts were kept; answers how many are new.

        Chunks before one that is refused are findable. Raises AlreadyExists, SpecMismatch, OverBudget.
        """
        deadline, added = self._deadline(deadline_seconds), 0
        for some in _batches(metas, map(messages.meta_bytes, metas), messages.MAX_CHUNKS):
            request = messages.add_message(some)

            async def call(replica: Replica, request: pb.AddRequest = request) -> int:
                async with replica.line.calling("add", deadline) as watch:
                    return (await replica.stub.Add(request, **watch.limits)).added

            added += await self._one(lineage, call, deadline)
        return added

    async def remove(
        self,
        keys: Collection[ChunkKey] = (),
        branches: Collection[Branch] = (),
        *,
        deadline_seconds: float | None = None,
    ) -> int:
        """Have all replicas look whether chunks are gone, and forget those that are; answers how many they knew.

        Raises Unavailable if no replica answers. What one that does not may still name is a miss for whoever asks
        the store.
        """
        deadline = self._deadline(deadline_seconds)
        requests = [
            pb.RemoveRequest(keys=map(wire.chunk_message, some))
            for some in _batches(keys, repeat(0), messages.MAX_CHUNKS)
        ]
        requests += [pb.RemoveRequest(branches=some) for some in _batches(branches, repeat(0), messages.MAX_CHUNKS)]
        errors: list[WorldKVError] = []

        async def ask(replica: Replica) -> int:
            removed = 0
            try:
                for request in requests:
                    async with replica.line.calling("remove", deadline) as watch:
                        removed += (await replica.stub.Remove(request, **watch.limits)).removed
            except (Unavailable, DeadlineExceeded) as error:
                errors.append(error)
            return removed

        everyone = self.replicas.everyone()
        removed = await together(map(ask, everyone))
        if len(errors) == len(everyone):
            raise errors[0]
        return sum(removed)

    async def least_useful(
        self,
        lineage: Lineage,
        count: int,
        view_range: float,
        protect: Collection[int] = (),
        exclude: Collection[int] = (),
        *,
        owned: Collection[Branch] | None = None,
        published: int = 0,
        deadline_seconds: float | None = None,
    ) -> list[ChunkKey]:
        """At most `count` chunks of a lineage that it can do without, in the order to take them away.

        view_range  how far views reach, units
        protect     chunk numbers that must stay, such as sink and recent
        exclude     chunk numbers that are gone already: never named, and not counted on to show anything
        owned       branches whose chunks may be named; None: all of the lineage
        published   chunks of the lineage that the store has

        Raises Unavailable if the world is not whole at its replica and cannot be read.
        """
        deadline = self._deadline(deadline_seconds)
        request = pb.LeastUsefulRequest(
            lineage=wire.lineage_message(lineage),
            count=count,
            protect=protect,
            owned=[branch for branch, _ in lineage.parts] if owned is None else owned,
            view_range=view_range,
            exclude=exclude,
            published=published,
        )

        async def call(replica: Replica) -> list[ChunkKey]:
            async with replica.line.calling("least_useful", deadline) as watch:
                return [*map(wire.chunk_of, (await replica.stub.LeastUseful(request, **watch.limits)).keys)]

        return await self._one(lineage, call, deadline)

    async def stats(self, *, deadline_seconds: float | None = None) -> dict[str, ReplicaStats | None]:
        """What each replica says of itself, by name; None for one that does not answer."""
        deadline = self._deadline(deadline_seconds)

        async def ask(replica: Replica) -> ReplicaStats | None:
            with suppress(Unavailable, DeadlineExceeded):
                said = await replica.stats(deadline)
                return ReplicaStats(said.replica, said.branches, said.chunks, said.rebuilt, said.bytes)
            return None

        everyone = self.replicas.everyone()
        answers = await together(map(ask, everyone))
        return {replica.member.name: each for replica, each in zip(everyone, answers, strict=True)}

    def finder(
        self,
        lineage: Lineage,
        selector: str = messages.SELECTOR,
        seed: int = 0,
        spec: str = "",
        deadline_seconds: float = 1.0,
        published: int | None = None,
    ) -> RemoteFinder:
        """The index as one session sees it: see `RemoteFinder`."""
        return RemoteFinder(self, lineage, selector, seed, spec, deadline_seconds, published)

    async def _one(self, lineage: Lineage, call: Callable[[Replica], Awaitable[T]], deadline: Deadline) -> T:
        """What a world's replica answers; asked again if it does not, as the policy allows."""
        outcome: list[T] = []
        errors: list[WorldKVError] = []

        async def ask(replica: Replica, _: list[int]) -> None:
            errors.clear()
            try:
                outcome.append(await call(replica))
            except Unavailable as error:
                errors.append(error)
                if not told(error):
                    raise

        def done(_: int) -> bool:
            return bool(outcome) or bool(errors and told(errors[0]))

        await walk({0: [self.replicas.of(lineage)]}, ask, done, self.config.retry, deadline)
        if not outcome:
            raise errors[0] if errors else _late(deadline)
        return outcome[0]

    def _deadline(self, seconds: float | None) -> Deadline:
        return Deadline(self.config.deadline_seconds if seconds is None else seconds)


def _late(deadline: Deadline) -> WorldKVError:
    return DeadlineExceeded(f"the retriever did not answer within {deadline.seconds:g} s")


def _batches(items: Collection[T], weights: Iterable[int], most: int) -> Iterator[list[T]]:
    """The items in order, at most `most` at a time, and no more than about `messages.MESSAGE_BYTES`; one at least."""
    batch, total = list[T](), 0
    for item, weight in zip(items, weights, strict=False):
        if batch and (len(batch) == most or total + weight > messages.MESSAGE_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += weight
    if batch:
        yield batch
