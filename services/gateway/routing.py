"""Which generator a call goes to. Nothing is kept that generators cannot say again: any gateway serves any session."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakValueDictionary

from services.gateway.config import RoutingConfig
from services.gateway.generators import Generator, Generators, root_of
from services.gateway.metrics import Metrics
from services.gateway.placement import ranked
from services.gateway.quotas import QuotaConfig, Quotas
from worldkv.client.policy import Deadline
from worldkv.errors import Conflict, OverBudget, Unavailable
from worldkv.rpc import answered
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.generator_pb2 import ResumeRequest, ResumeResponse

_log = logging.getLogger(__name__)

PAGE, LARGEST_PAGE = 100, 1000


class Place(NamedTuple):
    """Where a session lives, and as what it came there just now; None if it lived there before."""

    generator: Generator
    resumed: pb.OpenResponse | None


class Walked(NamedTuple):
    """A session that a client of this gateway walks in: where it lives, and who is told that it was taken back.

    taken_back  is given its world, and the chunk that it stands before
    """

    generator: Generator
    taken_back: Callable[[chunk_pb2.World, int], None]


class Router:
    """The calls of `Sessions` that have one answer, each brought to the generator that can give it.

    ended  is set when walks are to go on through another gateway
    """

    def __init__(
        self, generators: Generators, config: RoutingConfig, metrics: Metrics, quota: QuotaConfig | None = None
    ) -> None:
        self.generators, self.config, self.metrics = generators, config, metrics
        self._quotas = Quotas(quota or QuotaConfig(), lambda name: metrics.over_quota.labels(name).inc())
        self.ended = asyncio.Event()
        self._roots: OrderedDict[tuple[str, str], bytes] = OrderedDict()  # by tenant and name of the world
        self._walked: dict[tuple[str, str], Walked] = {}
        self._settling: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def open(self, tenant: str, request: pb.OpenRequest, deadline: Deadline) -> pb.OpenResponse:
        """Open a session where there is room. Raises OverBudget if there is none, or the tenant has had enough;
        Unavailable if nobody answers."""
        with self._quotas.opening(tenant, await self._living(tenant, deadline)):
            return await self._open(tenant, request, deadline)

    async def _living(self, tenant: str, deadline: Deadline, but: str = "") -> Callable[[], int]:
        """Counts a tenant's sessions, without one of them; where that is bounded."""
        generators = await self.generators.known()
        listed = await self._listed(tenant, deadline) if self._quotas.config.sessions else set()
        return lambda: len(listed.union(*(each.living(tenant) for each in generators)) - {but})

    async def _listed(self, tenant: str, deadline: Deadline) -> set[str]:
        """A tenant's sessions, suspended ones too. Raises Unavailable if no generator answers."""
        found, token = set[str](), ""
        while True:
            page = await self.page(tenant, pb.ListRequest(page_size=LARGEST_PAGE, page_token=token), deadline)
            found.update(each.session for each in page.sessions)
            if not (token := page.next_page_token):
                return found

    async def _open(self, tenant: str, request: pb.OpenRequest, deadline: Deadline) -> pb.OpenResponse:
        refused: list[str] = []
        for generator in await self._placeable(self._roots.get((tenant, request.world))):
            try:
                opened: pb.OpenResponse = await generator.call(generator.sessions.Open, request, tenant, deadline)
            except OverBudget as error:
                refused.append(f"{generator.load}: {error}")
            except Unavailable as error:
                told = request.scene or request.picture or request.tour
                new = bool(told or request.HasField("start"))  # such a world is begun once
                if not answered(error) and request.world and new:
                    words = f"generator {generator.name} may have begun world {request.world!r}, and does not answer"
                    raise Unavailable(f"{words}: {error}") from error
                _log.warning("a session is opened elsewhere, not on generator %s: %s", generator.name, error)
            else:
                self._arrived(generator, tenant, opened)
                self.metrics.opened.inc()
                return opened
        raise self.nowhere("a session cannot be opened", refused)

    async def fork(self, tenant: str, request: pb.ForkRequest, deadline: Deadline) -> pb.ForkResponse:
        """Give a session's world a second name. Raises Unavailable if nobody knows whether that was done."""
        generator, _ = await self.settle(tenant, request.session, deadline)
        with _once(generator, "fork", request.session):
            forked: pb.ForkResponse = await generator.call(generator.sessions.Fork, request, tenant, deadline)
        self._learn(tenant, forked.world)
        return forked

    async def rewind(self, tenant: str, request: pb.RewindRequest, deadline: Deadline) -> pb.RewindResponse:
        """Take a session back to a chunk. Raises Unavailable if nobody knows whether that was done."""
        generator, _ = await self.settle(tenant, request.session, deadline)
        async with self._lock(tenant, request.session):  # a walk that this ends is told before it joins again
            walked = self._walked.get((tenant, request.session))
            with _once(generator, "rewind", request.session):
                taken: pb.RewindResponse = await generator.call(generator.sessions.Rewind, request, tenant, deadline)
            if walked is not None:
                walked.taken_back(taken.world, request.at)
        return taken

    async def close(self, tenant: str, request: pb.CloseRequest, deadline: Deadline) -> pb.CloseResponse:
        """End a session, elsewhere if its generator is gone. Raises Unavailable if nobody knows whether it ended."""
        generator, _ = await self.settle(tenant, request.session, deadline)
        with _once(generator, "close", request.session):
            closed: pb.CloseResponse = await generator.call(generator.sessions.Close, request, tenant, deadline)
        generator.left(tenant, request.session)
        return closed

    async def page(self, tenant: str, request: pb.ListRequest, deadline: Deadline) -> pb.ListResponse:
        """A page of the tenant's sessions on all generators that answer. Raises Unavailable if none does."""
        asked = await self.generators.known()
        size = min(request.page_size or PAGE, LARGEST_PAGE)
        request = pb.ListRequest(page_size=size, page_token=request.page_token)
        calls = (each.call(each.sessions.List, request, tenant, deadline) for each in asked)
        answers: list[pb.ListResponse | BaseException] = await asyncio.gather(*calls, return_exceptions=True)
        pages: list[pb.ListResponse] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                if not isinstance(answer, Unavailable):
                    raise answer
                _log.warning("sessions are listed without those of one generator: %s", answer)
            else:
                pages.append(answer)
        if not pages:
            raise self.nowhere("sessions cannot be listed")
        return merged(pages, size)

    def watched(self, tenant: str, watch: str) -> Generator | None:
        """The generator on which the session lives that is watched by this id, as far as is known."""
        return next((each for each in self.generators.answering() if each.watched(tenant, watch)), None)

    def deadline(self) -> Deadline:
        """Of a call that names none."""
        return Deadline(self.config.deadline_seconds)

    async def end(self) -> None:
        """Wait until this gateway ends. Raises Unavailable then."""
        await self.ended.wait()
        raise Unavailable("this gateway ends: join the session again")

    async def settle(self, tenant: str, session: str, deadline: Deadline, root: bytes | None = None) -> Place:
        """Where a session lives; if nowhere, it is resumed where there is room.

        root  of its world, if it is known

        Raises what generators raise who do not know the session, or may not have it; OverBudget if none has room, or
        the tenant has as many as it may; Unavailable if none answers.
        """
        async with self._lock(tenant, session):
            home = await self._find(tenant, session)
            if home:
                return Place(home, None)
            with self._quotas.waking(tenant, await self._living(tenant, deadline, session)):
                return await self._resume(tenant, session, deadline, root)

    @contextmanager
    def walked(self, tenant: str, session: str, walked: Walked) -> Iterator[None]:
        """While a client walks in a session here, it lives where the client is joined, even if suspended."""
        self._walked[tenant, session] = walked
        try:
            yield
        finally:
            if self._walked.get((tenant, session)) is walked:
                del self._walked[tenant, session]

    def _lock(self, tenant: str, session: str) -> asyncio.Lock:
        """Held by whoever finds out where a session lives, or takes it back."""
        return self._settling.setdefault((tenant, session), asyncio.Lock())

    async def _find(self, tenant: str, session: str) -> Generator | None:
        """The generator that says that a session lives on it."""
        walked = self._walked.get((tenant, session))
        home = walked.generator if walked else self._home(tenant, session)
        if home and not home.silent.is_set():
            await asyncio.wait([home.asking()])
            if home.resident(tenant, session) or (walked and home.stats):
                return home
        await self.generators.look()
        return self._home(tenant, session)

    def _home(self, tenant: str, session: str) -> Generator | None:
        """The generator on which a session lives as far as is known. If there are two, one of them was taken for dead:
        the one that somebody is joined to is not."""
        homes = [(each, found) for each in self.generators.everyone() if (found := each.resident(tenant, session))]
        return max(homes, key=lambda home: home[1].joined)[0] if homes else None

    async def _resume(self, tenant: str, session: str, deadline: Deadline, root: bytes | None) -> Place:
        refused: list[str] = []
        request = ResumeRequest(session=session)
        for generator in await self._placeable(root):
            try:
                resumed: ResumeResponse = await generator.call(generator.stub.Resume, request, tenant, deadline)
            except OverBudget as error:
                refused.append(f"{generator.load}: {error}")
            except Unavailable as error:
                _log.warning("session %s is not resumed on generator %s: %s", session, generator.name, error)
            except Conflict:  # another gateway may have been faster
                await self.generators.look()
                if home := self._home(tenant, session):
                    return Place(home, None)
                raise
            else:
                self._arrived(generator, tenant, resumed.opened)
                if resumed.lived:
                    return Place(generator, None)
                self.metrics.resumed.inc()
                return Place(generator, resumed.opened)
        raise self.nowhere(f"session {session} lives nowhere", refused)

    async def _placeable(self, root: bytes | None) -> list[Generator]:
        """Where a session is to be tried, in this order."""
        known = {each.name: each for each in await self.generators.known() if not each.leaves}
        return [known[load.name] for load in ranked((each.load for each in known.values()), root)]

    def _arrived(self, generator: Generator, tenant: str, opened: pb.OpenResponse) -> None:
        generator.arrived(tenant, opened)
        self._learn(tenant, opened.world)

    def _learn(self, tenant: str, world: chunk_pb2.World) -> None:
        """Remember whose fork a world is: a hint for where it is opened next."""
        self._roots[tenant, world.name] = root_of(world)
        self._roots.move_to_end((tenant, world.name))
        if len(self._roots) > self.config.most_worlds:
            self._roots.popitem(last=False)

    def nowhere(self, what: str, refused: Sequence[str] = ()) -> OverBudget | Unavailable:
        """What cannot be had: because everybody refuses, in these words, or because nobody answers."""
        if refused:
            self.metrics.refused.inc()
            return OverBudget(f"{what}: no generator has room: {'; '.join(refused)}")
        names = ", ".join(each.name for each in self.generators.everyone())
        return Unavailable(f"{what}: no generator answers, of {names or 'none'}")


def merged(pages: Iterable[pb.ListResponse], size: int) -> pb.ListResponse:
    """One page of at most `size` sessions, by id, of what several generators answered to the same request.

    A session that two of them list is shown as the one does on which it is most alive.
    """
    pages = [page for page in pages if page.sessions]
    best: dict[str, pb.SessionSummary] = {}
    for summary in (each for page in pages for each in page.sessions):
        other = best.get(summary.session)
        if other is None or _liveliness(summary) > _liveliness(other):
            best[summary.session] = summary
    # Beyond the end of a page that is not the last one its generator may have more.
    end = min((page.sessions[-1].session for page in pages if page.next_page_token), default=None)
    ids = [each for each in sorted(best) if end is None or each <= end][:size]
    more = end is not None or len(ids) < len(best)
    return pb.ListResponse(sessions=[best[each] for each in ids], next_page_token=ids[-1] if more else "")


def _liveliness(summary: pb.SessionSummary) -> tuple[bool, bool, int]:
    return not summary.suspended, summary.joined, summary.next


@contextmanager
def _once(generator: Generator, what: str, session: str) -> Iterator[None]:
    """Around a call that must not be made twice: if it is not answered, that is said, and it is not made elsewhere."""
    try:
        yield
    except Unavailable as error:
        if answered(error):
            raise
        words = f"{what} of session {session} may or may not have been done: generator {generator.name} fell silent"
        raise Unavailable(f"{words}: {error}") from error
