"""The line to one member of a service: its channel, its signs of life, and its rest when it does not answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

from worldkv import rpc
from worldkv.auth import Bearer
from worldkv.client.membership import Member
from worldkv.client.policy import Deadline, Retry
from worldkv.errors import DeadlineExceeded, Unauthenticated, Unavailable, WorldKVError

REMEDY = "start it again, or take it out of the membership"
"""What is to be done about a member that does not answer."""


class Watch:
    """Looks whether the other side of a call is alive.

    limits  what the call has to be given: how long it may take, and whose it is
    signs   of life there were
    """

    def __init__(self, guard: asyncio.Timeout, stall: float | None, limits: dict[str, Any]) -> None:
        self.limits, self.signs = limits, 0
        self._guard, self._stall, self._busy = guard, stall, 0

    def alive(self) -> None:
        """A sign of life came."""
        self.signs += 1
        self._arm()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around work of our own, during which nothing is waited for."""
        self._busy += 1
        self._arm()
        try:
            yield
        finally:
            self._busy -= 1
            self._arm()

    def _arm(self) -> None:
        if self._stall is not None and not self._guard.expired():
            now = asyncio.get_running_loop().time()
            self._guard.reschedule(None if self._busy else now + self._stall)


class Line:
    """A connection, made when it is first used.

    A member that gave no sign of life, or failed as often as the policy allows, rests: for a while calls raise
    Unavailable at once, so that a dead one costs next to nothing.

    what      a member is called in errors: `shard`
    tenant    whose calls these are
    stall     seconds after which a member that gives no sign of life in a call counts as not answering; None: a call
              has nothing but its deadline
    bearer    what is shown with every call
    counters  of the whole client; here `failures`
    """

    def __init__(
        self,
        what: str,
        member: Member,
        tenant: str,
        retry: Retry,
        stall: float | None,
        tls: rpc.TLS,
        bearer: Bearer,
        counters: Counter[str],
    ) -> None:
        self.name, self.counters = member.name, counters
        self.channel = rpc.channel(member.address, tls or None, deadline_seconds=None)  # every call names its own
        self._what, self._retry, self._stall = f"{what} {member.name}", retry, stall
        self._tenant, self._bearer = tenant, bearer
        self._failures, self._rests_until = 0, 0.0
        self._calls, self._idle, self._closed = 0, asyncio.Event(), False
        self._silence: tuple[float, float] | None = None  # first and last call without an answer

    @property
    def resting(self) -> bool:
        """Whether calls raise Unavailable at once, because the last ones were not answered."""
        return monotonic() < self._rests_until

    @property
    def silent_seconds(self) -> float:
        """Between the first and the last of the calls that were not answered; 0 if the last call was."""
        return 0.0 if self._silence is None else self._silence[1] - self._silence[0]

    async def idle(self) -> None:
        """Wait until no call is under way."""
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """End the connection: whoever calls from now on is told Unavailable."""
        self._closed = True
        await self.channel.close()

    @asynccontextmanager
    async def calling(self, what: str, deadline: Deadline) -> AsyncIterator[Watch]:
        """Around a call: errors become ours, and silence becomes Unavailable, which names the member.

        Raises DeadlineExceeded if there is no time left to call.
        """
        limits = {"timeout": deadline.require(what), "metadata": self._bearer.metadata(self._tenant)}
        if self._closed:
            raise Unavailable(f"{what}: the line to {self._what} is closed")
        if self.resting:
            raise Unavailable(f"{what}: {self._what} did not answer the last calls: {REMEDY}")
        self._calls += 1
        try:
            async with asyncio.timeout(self._stall) as guard:
                watch = Watch(guard, self._stall, limits)
                with rpc.translated():
                    yield watch
        except TimeoutError as error:
            self._failed(self._retry.attempts)
            raise Unavailable(f"{what}: {self._what} gave no sign of life for {self._stall:g} s: {REMEDY}") from error
        except WorldKVError as error:
            if rpc.answered(error):  # it is there, whatever it misses
                self._answered()
                if isinstance(error, Unauthenticated) and self._bearer.secret:  # no fault of whom we speak for
                    raise Unavailable(f"{what}: {self._what} does not take our own token: {error}") from error
                if isinstance(error, Unavailable):
                    raise Unavailable(f"{what}: {self._what}: {error}") from error
                raise
            # A status without a meaning of ours: the other end has a bug, or died in the middle of a write.
            failed = isinstance(error, Unavailable) or type(error) is WorldKVError
            if failed or (isinstance(error, DeadlineExceeded) and not watch.signs):
                self._failed()
            if type(error) is WorldKVError:
                raise Unavailable(f"{what}: {self._what} failed: {error}") from error
            if isinstance(error, Unavailable):
                why = str(error).rpartition(": ")[2]  # gRPC says first what it was trying to do
                raise Unavailable(f"{what}: {self._what} does not answer: {REMEDY} ({why})") from error
            raise
        finally:
            self._calls -= 1
            self._idle.set()
        self._answered()

    def _answered(self) -> None:
        self._failures, self._silence = 0, None

    def _failed(self, weight: int = 1) -> None:
        self.counters["failures"] += 1
        self._failures += weight
        now = monotonic()
        self._silence = (self._silence[0] if self._silence else now), now
        if self._failures >= self._retry.attempts:
            self._failures = 0
            self._rests_until = now + self._retry.rest_seconds
