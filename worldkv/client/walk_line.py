"""The stream of one session, kept up: what is lost with a connection is sent again, and nothing has an effect twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any, TypeVar

from grpc import StatusCode, aio

from worldkv import rpc
from worldkv.auth import Bearer, Metadata
from worldkv.client.policy import Deadline
from worldkv.errors import InvalidConfig, Unavailable, WorldKVError
from worldkv.rpc import translated
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsStub

T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0
"""Seconds between two connections; each wait is twice as long as the one before it."""
_INSIDE = (StatusCode.INTERNAL, StatusCode.UNKNOWN)
"""Statuses of calls that failed inside gRPC, and of what is no error of ours."""


@dataclass(frozen=True)
class WalkClientConfig:
    """How a client of walks behaves.

    tenant             whose worlds
    deadline_seconds   of a call that is no walk
    reconnect_seconds  that a walk looks for its session after a lost connection; 0: it ends at once
    silence_seconds    after which an answer is looked for on a new connection
    tls                transport security
    token              a token, or the name of a file that holds one; empty: none is shown

    Raises InvalidConfig for values out of range.
    """

    tenant: str = rpc.DEFAULT_TENANT
    deadline_seconds: float = 60.0
    reconnect_seconds: float = 30.0
    silence_seconds: float = 60.0
    tls: rpc.TLS | None = None
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("deadline_seconds", "reconnect_seconds", "silence_seconds"):
            least = 0.0 if name == "reconnect_seconds" else 1e-3
            if not least <= getattr(self, name) < float("inf"):
                raise InvalidConfig(f"{name} = {getattr(self, name)}: expected seconds from {least:g}")


class Link:
    """The channel to a service of walks, and as whom it is spoken to."""

    def __init__(self, address: str, config: WalkClientConfig) -> None:
        self.address, self.config = address, config
        self.channel = rpc.channel(address, config.tls, config.deadline_seconds)
        self.stub = SessionsStub(self.channel)
        self._bearer = Bearer(config.token)

    @property
    def metadata(self) -> Metadata:
        """What goes with every call."""
        return self._bearer.metadata(self.config.tenant)

    async def ask(self, call: Awaitable[T]) -> T:
        """What a single call gives. Raises what the service raised, Unavailable in plain words if nobody is there."""
        try:
            with translated():
                return await call
        except Unavailable as error:
            raise self.plain(error) from error

    def plain(self, error: WorldKVError) -> WorldKVError:
        """What says where nobody answers; other errors, and what the service raised itself, as they are."""
        if rpc.answered(error) or not isinstance(error, Unavailable):
            return error
        return Unavailable(f"nothing answers on {self.address}, `worldkv up` starts the service ({error})")


class WalkLine:
    """Joins a session, again and again while it can be reached, and hands on what it says.

    take    is given every answer, in order; while it has not returned, nothing more is read
    told    is called when the connection is lost, and when the session is joined again; with the reason, or empty
    seen    chunks the user has: what comes after them is asked for again
    watch   whether it is only watched; `session` is the id for that
    """

    def __init__(
        self,
        link: Link,
        session: str,
        take: Callable[[pb.WalkResponse], Awaitable[None]],
        told: Callable[[bool, str], None],
        watch: bool = False,
    ) -> None:
        self.link, self.session, self.seen, self.watch = link, session, 0, watch
        self._take, self._told = take, told
        self._unanswered: dict[int, pb.WalkRequest] = {}
        self._outbox: asyncio.Queue[pb.WalkRequest] = asyncio.Queue()
        self._guard: asyncio.Timeout | None = None
        self._again, self._up, self._progress = False, True, False
        self._joined, self._asked = inf, 0.0  # when this connection was answered first; since when something waits

    @property
    def waits(self) -> bool:
        """Whether something has no answer yet."""
        return bool(self._unanswered)

    def send(self, number: int, request: pb.WalkRequest) -> None:
        """Send a move, show, hold or change, on every connection again until it is answered."""
        if not self._unanswered:
            self._asked = monotonic()
        self._unanswered[number] = request
        self._outbox.put_nowait(request)
        self._watch()

    def answered(self, number: int) -> None:
        """It needs not be sent again."""
        self._unanswered.pop(number, None)

    def join_again(self) -> None:
        """Ask again for what comes after `seen`, which now is less than what the session was told."""
        self._again = True

    async def run(self) -> None:
        """Speak with the session until it ends or is taken over, or cannot be reached for too long: raises why.

        That time runs from the first loss on. What is told may be what breaks connections, so a join does not begin it
        again, only what was drawn or applied, or a connection on which nothing was asked for as long.
        """
        seconds, wait = self.link.config.reconnect_seconds, FIRST_WAIT
        limit: Deadline | None = None
        while True:
            self._progress, self._joined = False, inf
            failed = await self._converse()
            idle = (self._asked if self.waits else monotonic()) - self._joined
            if self._progress or idle > seconds:
                limit, wait = None, FIRST_WAIT
            if failed is None:
                continue
            limit = limit or Deadline(seconds)
            if self._up:
                self._up = False
                self._told(False, str(failed))
            if limit.remaining <= wait:
                raise self.link.plain(failed) from failed
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            wait = min(2 * wait, LONGEST_WAIT)

    async def _converse(self) -> WorldKVError | None:
        """One connection: why it broke, None if it was ended here. Raises what ends the session for this client."""
        self._again, self._outbox = False, asyncio.Queue()
        join = pb.WalkRequest(join=pb.Join(session=self.session, seen=self.seen, watch=self.watch))
        for request in (join, *self._unanswered.values()):
            self._outbox.put_nowait(request)
        call = self.link.stub.Walk(metadata=self.link.metadata)
        writing = asyncio.create_task(self._write(call, self._outbox))
        try:
            async with asyncio.timeout(self.link.config.silence_seconds) as self._guard:
                with translated():
                    async for answer in call:
                        await self._hear(answer)
                        if self._again:
                            return None
            return Unavailable("the service ended the stream")
        except TimeoutError:
            silence = self.link.config.silence_seconds
            return Unavailable(f"no answer from {self.link.address} in {silence:g} s")
        except WorldKVError as error:
            if _broken(error):
                return _lost(error)
            raise
        finally:
            self._guard = None
            call.cancel()
            writing.cancel()
            await asyncio.wait([writing])

    @staticmethod
    async def _write(call: Any, outbox: asyncio.Queue[pb.WalkRequest]) -> None:
        """Write until the call ends; why it did is known to who reads."""
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await call.write(await outbox.get())

    async def _hear(self, answer: pb.WalkResponse) -> None:
        """Hand on an answer; how long that takes is not the service's silence."""
        self._progress = self._progress or answer.WhichOneof("message") in ("drawn", "applied", "refused")
        self._joined = min(self._joined, monotonic())
        if not self._up:
            self._up = True
            self._told(True, "")
        if self._guard is not None:
            self._guard.reschedule(None)
        await self._take(answer)
        self._watch()

    def _watch(self) -> None:
        """From now on silence is measured, if something is waited for."""
        if self._guard is not None and not self._guard.expired():
            limit = asyncio.get_running_loop().time() + self.link.config.silence_seconds
            self._guard.reschedule(limit if self._unanswered else None)


def _broken(error: WorldKVError) -> bool:
    """Whether a connection broke: what the service says itself is final, unless it says that it does not answer.

    Writing to a call that has just ended makes it one that failed inside gRPC, whatever it had ended with.
    """
    cause = error.__cause__
    inside = isinstance(cause, aio.AioRpcError) and cause.code() in _INSIDE and not rpc.answered(error)
    return isinstance(error, Unavailable) or inside


def _lost(error: WorldKVError) -> WorldKVError:
    """Why a connection broke: Unavailable, but for a bug of the service."""
    cause = error.__cause__
    if isinstance(error, Unavailable) or (isinstance(cause, aio.AioRpcError) and cause.details() == rpc.BUG):
        return error
    return Unavailable(f"the connection broke: {error}")
