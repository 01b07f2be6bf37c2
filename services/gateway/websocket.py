"""One conversation over a WebSocket: the same walk as over gRPC, in the frames that `frames` describes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from services.gateway.config import WebConfig
from services.gateway.frames import closing, framed, parsed, replied
from services.gateway.routing import Router
from services.gateway.waiting import Waiting
from services.gateway.walking import walk
from services.gateway.web_auth import PROTOCOL
from worldkv.auth import SESSIONS, Claims
from worldkv.client.policy import Deadline
from worldkv.errors import InvalidInput, OverBudget, WorldKVError
from worldkv.v1 import sessions_pb2 as pb


class Socket(web.WebSocketResponse):
    """A WebSocket that is closed in our words if a message is too large."""

    def __init__(self, config: WebConfig) -> None:
        limits: dict[str, Any] = {"max_msg_size": config.message_bytes, "heartbeat": config.beat_seconds}
        super().__init__(protocols=(PROTOCOL,), compress=False, **limits)
        self._too_large = closing(OverBudget(f"a message has more than {config.message_bytes} bytes"))

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            code, message = self._too_large
        return await super().close(code=code, message=message, drain=drain)


class Conversation:
    """What one client says and is told, until one side ends it.

    claims  what the client may
    """

    def __init__(self, socket: Socket, router: Router, claims: Claims, config: WebConfig) -> None:
        self.router, self.claims, self.tenant = router, claims, claims.tenant
        self._socket, self._session, self._watches, self._closed = socket, "", False, False
        self._idle = asyncio.Event()  # the session is not just being closed
        self._idle.set()
        self._waiting = Waiting(config.picture_bytes, config.most_waiting)
        self._requests: asyncio.Queue[pb.WalkRequest] = asyncio.Queue(1)

    async def run(self) -> None:
        """Talk until the end, then close the socket with the reason."""
        code, reason = int(WSCloseCode.OK), b""
        sending = asyncio.create_task(self._send())
        try:
            try:
                await _first_of(self._talk(), self.router.end(), self.claims.end(), asyncio.shield(sending))
            except WorldKVError as error:
                code, reason = closing(error)
            await self._waiting.end()
            await sending
            await self._socket.close(code=code, message=reason)
        finally:
            sending.cancel()
            self.router.metrics.dropped.inc(self._waiting.dropped)

    async def _talk(self) -> None:
        """Raises why the conversation ends, if not because the client wants it to end."""
        if (said := await self._said()) is None:
            return
        join = await self._join(*said)
        listening = asyncio.create_task(self._listen())
        try:
            await _first_of(self._walk(join), asyncio.shield(listening))
            await self._idle.wait()  # the client may have closed its session: that is answered
        except WorldKVError:
            await self._idle.wait()
            if not self._closed:
                raise
        finally:
            listening.cancel()

    async def _join(self, kind: str, message: Any) -> pb.Join:
        """The first thing that a client says, as a join."""
        if kind == "open":
            self.claims.check_open(message.world, message.at if message.HasField("at") else None, message.fork)
            opened = await self.router.open(self.tenant, message, self._deadline())
            await self._waiting.put(replied("open", opened))
            join = pb.Join(session=opened.session, seen=opened.next)
        elif kind == "join":
            self.claims.check_join(message.session, message.watch)
            join = message
        else:
            raise InvalidInput(f"a conversation begins with open or join, not with {kind}")
        self._session, self._watches = join.session, join.watch
        return join

    async def _walk(self, join: pb.Join) -> None:
        """Hand on the answers of a walk."""
        async with aclosing(walk(self.router, self.tenant, self._walks(join))) as answers:
            async for answer in answers:
                await self._waiting.put(answer)

    async def _walks(self, join: pb.Join) -> AsyncIterator[pb.WalkRequest]:
        """What the client says to its walk."""
        yield pb.WalkRequest(join=join)
        while True:
            yield await self._requests.get()

    async def _listen(self) -> None:
        """Bring what the client says to where it belongs, until it leaves or closes its session."""
        while not self._closed and (said := await self._said()) is not None:
            kind, message = said
            if self._watches:
                raise InvalidInput(f"who watches a session has no effect on it, got {kind}")
            if kind in ("move", "show", "hold", "configure"):
                await self._requests.put(pb.WalkRequest(**{kind: message}))
            elif kind in ("open", "join"):
                raise InvalidInput(f"{kind}: this conversation is about session {self._session}")
            else:
                await self._call(kind, message)

    async def _call(self, kind: str, message: Any) -> None:
        """Answer a fork, a rewind or a close; an error of it does not end the conversation."""
        if message.session not in ("", self._session):
            raise InvalidInput(f"{kind}.session: this conversation is about session {self._session}")
        message.session = self._session
        calls: dict[str, Any] = {"fork": self.router.fork, "rewind": self.router.rewind, "close": self.router.close}
        if kind == "close":
            self._idle.clear()
        try:
            self.claims.check_call(f"/{SESSIONS}/{kind.capitalize()}")
            answer = await calls[kind](self.tenant, message, self._deadline())
            self._closed = kind == "close"
        except WorldKVError as error:
            answer = error
        await self._waiting.put(replied(kind, answer))
        self._idle.set()

    async def _said(self) -> tuple[str, Any] | None:
        """The next thing that the client says; None: it left."""
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            raise InvalidInput("a client sends text, and no binary messages")
        return parsed(message.data) if message.type is WSMsgType.TEXT else None

    async def _send(self) -> None:
        """Send what waits, until all is sent or nobody is there any more."""
        try:
            while (answer := await self._waiting.take()) is not None:
                await self._socket.send_bytes(answer if isinstance(answer, bytes) else framed(answer))
        except ConnectionResetError:
            return

    def _deadline(self) -> Deadline:
        return Deadline(self.router.config.deadline_seconds)


async def _first_of(*awaited: Awaitable[None]) -> None:
    """Wait for the first of these to end, and end the others. Raises what it raised."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
