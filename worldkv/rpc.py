"""gRPC edges: channels, servers, who is calling, and the one table between errors and status codes.

A server translates every WorldKVError to a status; a client translates it back within `with translated():`. The
status carries the error's words, and its class in the trailing metadata, so that it arrives as what it left as.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc import StatusCode, aio

from worldkv import errors
from worldkv.auth import DEFAULT_TENANT as DEFAULT_TENANT
from worldkv.auth import OPEN, SHARED, TOKEN_KEY, Authority, Claims
from worldkv.auth import TENANT_KEY as TENANT_KEY
from worldkv.auth import tenant_named as tenant_named
from worldkv.errors import Forbidden, InvalidConfig, Unauthenticated, Unavailable, WorldKVError

MAX_MESSAGE_BYTES = 4 << 20
"""Largest message either side accepts: gRPC's own default, kept as a guard rail. Larger things travel in pieces."""
DEADLINE_SECONDS = 30.0
"""Deadline of a call that names none."""
HANDSHAKE_SECONDS = 10.0
"""That a server waits for who has connected and does not say how it goes on."""
PING_SECONDS = 20.0
"""Of silence while a call lasts, after which either side asks whether the other is there: it is gone when that is not
answered for as long. Without it a call that lasts waits for ever for a machine that lost its power."""
LASTING = (
    ("worldkv.v1.Sessions", "Walk"),
    ("worldkv.v1.Sessions", "Look"),
    ("worldkv.v1.Sessions", "Export"),
    ("grpc.health.v1.Health", "Watch"),
)
"""Calls that last as long as somebody listens: no deadline unless they name one."""
MAX_DETAILS = 1000
"""Characters of an error's words that cross the wire: metadata is limited to 8 KiB."""
POLITE_SECONDS, QUIET_SECONDS = 1.0, 0.1
"""How long the rest of a stream that went wrong is read and thrown away, and after what silence that ends."""
BUG = "internal error"
"""What strangers are told of an error that is not ours."""
ERROR_KEY = "worldkv-error"

STATUS: dict[type[WorldKVError], StatusCode] = {
    # The first error of a code is what that code becomes when it comes without a class name.
    errors.WorldKVError: StatusCode.UNKNOWN,
    errors.InvalidInput: StatusCode.INVALID_ARGUMENT,
    errors.InvalidPose: StatusCode.INVALID_ARGUMENT,
    errors.InvalidConfig: StatusCode.INVALID_ARGUMENT,
    errors.UnknownCodec: StatusCode.INVALID_ARGUMENT,
    errors.NonFinite: StatusCode.INVALID_ARGUMENT,
    errors.SpecMismatch: StatusCode.FAILED_PRECONDITION,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.Conflict: StatusCode.ABORTED,
    errors.Outdated: StatusCode.ABORTED,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.Forbidden: StatusCode.PERMISSION_DENIED,
    errors.OverBudget: StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.ChunkCorrupt: StatusCode.DATA_LOSS,
    errors.BadMagic: StatusCode.DATA_LOSS,
    errors.UnknownVersion: StatusCode.DATA_LOSS,
    errors.Truncated: StatusCode.DATA_LOSS,
    errors.Oversized: StatusCode.DATA_LOSS,
    errors.BadHeader: StatusCode.DATA_LOSS,
    errors.ChecksumMismatch: StatusCode.DATA_LOSS,
    errors.WeightsError: StatusCode.FAILED_PRECONDITION,
    errors.WeightsMissing: StatusCode.FAILED_PRECONDITION,
    errors.WeightsMismatch: StatusCode.FAILED_PRECONDITION,
}
_BY_NAME = {kind.__name__: kind for kind in STATUS}
# Reversed, so that of the errors that share a code the first remains. A server that stops cancels what it still
# serves; who cancels a call of his own sees asyncio.CancelledError instead.
_BY_CODE = {code: kind for kind, code in reversed(STATUS.items())} | {StatusCode.CANCELLED: Unavailable}

_log = logging.getLogger(__name__)


def status_of(error: WorldKVError) -> StatusCode:
    """The status code of an error: the one of its class, or of the nearest class above it that has one."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_of(code: StatusCode, details: str, name: str = "") -> WorldKVError:
    """The error of a status: of the class called `name` if that has this code, else the first of the code."""
    named = _BY_NAME.get(name)
    if named is not None and STATUS[named] == code:
        return named(details)
    if code in _BY_CODE and code != StatusCode.UNKNOWN:
        return _BY_CODE[code](details)
    return WorldKVError(f"{code.name}: {details}")


def name_of(error: WorldKVError) -> str:
    """What an error is called on the wire: its class, or the nearest class above it that has a status."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind in STATUS)


def error_named(name: str, details: str) -> WorldKVError:
    """The error that `name_of` gave this name; WorldKVError for a name that is not known here."""
    return _BY_NAME.get(name, WorldKVError)(details)


@contextmanager
def translated() -> Iterator[None]:
    """Around calls of a client: raises what the server raised instead of AioRpcError."""
    try:
        yield
    except aio.AioRpcError as error:
        trailing = error.trailing_metadata() or ()
        name = next((str(value) for key, value in trailing if key == ERROR_KEY), "")
        raise error_of(error.code(), error.details() or "", name) from error


def answered(error: WorldKVError) -> bool:
    """Whether the server raised itself what `translated` raised here; else nobody was there, or it is no server of
    ours."""
    cause = error.__cause__
    trailing = (cause.trailing_metadata() or ()) if isinstance(cause, aio.AioRpcError) else ()
    return any(key == ERROR_KEY for key, _ in trailing)


Context = aio.ServicerContext[Any, Any]
Guard = Callable[[str, Context], AbstractAsyncContextManager[None]]
"""Made for one call, from its method (`/package.Service/Method`) and context."""


@asynccontextmanager
async def statuses(method: str, context: Context) -> AsyncIterator[None]:
    """Guard that turns errors into statuses. What is not ours is a bug: logged here, and not told to strangers."""
    try:
        yield
    except WorldKVError as error:
        await context.abort(status_of(error), str(error)[:MAX_DETAILS], ((ERROR_KEY, name_of(error)),))
    except aio.AbortError:
        raise
    except Exception:  # noqa: BLE001 - the edge of the process: told, counted, never carried on with
        _log.exception("%s failed", method)
        await context.abort(StatusCode.INTERNAL, BUG)


class Guarded(aio.ServerInterceptor):
    """Puts a guard around every call of a server, whatever its kind."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        return None if handler is None else _wrapped(handler, self.guard, handler_call_details.method)


def _wrapped(handler: grpc.RpcMethodHandler[Any, Any], guard: Guard, method: str) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler with a guard around its behaviour."""
    kind, make = _KINDS[handler.request_streaming, handler.response_streaming]
    wrap = _around_stream if handler.response_streaming else _around_single
    behaviour = wrap(getattr(handler, kind), guard, method)
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


_caller: ContextVar[Claims | None] = ContextVar("caller", default=None)
"""Of the call that is served."""


class Authenticated(aio.ServerInterceptor):
    """Lets calls in that show a token which is for them. Others are told why not, and nothing of them is looked at."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method in OPEN:
            return handler
        told = handler_call_details.invocation_metadata or ()
        try:
            caller = self.authority.caller(_said(told, TOKEN_KEY), _said(told, TENANT_KEY))
            caller.check_call(method)
        except WorldKVError as error:
            return grpc.stream_stream_rpc_method_handler(_refusing(error, handler.request_streaming))
        return _wrapped(handler, _as_caller(caller), method)


def _refusing(error: WorldKVError, streaming: bool) -> Any:
    """Behaviour that says why, and takes no request."""

    async def refuse(requests: AsyncIterator[bytes], context: Context) -> None:
        if streaming:
            await listen_on(requests)
        raise error

    return refuse


async def listen_on(requests: AsyncIterator[Any]) -> None:
    """Let a caller finish its sentence, for a while: whoever is cut off in the middle of it does not hear why."""
    with suppress(TimeoutError):
        async with asyncio.timeout(POLITE_SECONDS):
            async with asyncio.timeout(QUIET_SECONDS) as quiet:
                async for _ in requests:
                    quiet.reschedule(asyncio.get_running_loop().time() + QUIET_SECONDS)


def _as_caller(caller: Claims) -> Guard:
    """Guard that lets `claims` know. What a link opened ends when the link expires."""

    @asynccontextmanager
    async def guard(method: str, context: Context) -> AsyncIterator[None]:
        _caller.set(caller)
        try:
            async with asyncio.timeout(caller.left if caller.role in SHARED else None) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unauthenticated("the token has expired") from error

    return guard


_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., grpc.RpcMethodHandler[Any, Any]]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _around_single(behaviour: Any, guard: Guard, method: str) -> Any:
    async def single(request: Any, context: Context) -> Any:
        async with guard(method, context):
            return await behaviour(request, context)

    return single


def _around_stream(behaviour: Any, guard: Guard, method: str) -> Any:
    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        async with guard(method, context):
            answers = behaviour(request, context)
            if hasattr(answers, "__await__"):  # a servicer that writes to its context, as the health servicer does
                await answers
                return
            async with aclosing(answers):
                async for answer in answers:
                    yield answer

    return stream


@dataclass(frozen=True)
class TLS:
    """Transport security, the same for either end; nothing set means none.

    certificate  PEM file: the own certificate chain. A server needs one; a client, to prove who it is
    key          PEM file: the private key of `certificate`
    authority    PEM file: who signs the other side. A server that has one accepts only clients it signed
    name         that the other side's certificate is for, if that is not its address: one for all parts of a service

    Raises InvalidConfig if one of certificate and key is given without the other.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidConfig(f"tls.certificate ({self.certificate}) and tls.key ({self.key}) go together")

    def __bool__(self) -> bool:
        return self.certificate is not None or self.authority is not None

    def client(self) -> grpc.ChannelCredentials:
        """Credentials of a channel. Raises InvalidConfig for a file that cannot be read."""
        return grpc.ssl_channel_credentials(_pem(self.authority), _pem(self.key), _pem(self.certificate))

    def server(self) -> grpc.ServerCredentials:
        """Credentials of a server. Raises InvalidConfig for a file that cannot be read, or without a certificate."""
        key, certificate, authority = _pem(self.key), _pem(self.certificate), _pem(self.authority)
        if key is None or certificate is None:
            raise InvalidConfig("a server with tls.authority needs tls.certificate and tls.key too")
        return grpc.ssl_server_credentials([(key, certificate)], authority, authority is not None)


def _pem(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"tls: {file} cannot be read: {error.strerror}") from error


_SIZES = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]


def _pings() -> list[tuple[str, int]]:
    """Options for both sides, see `PING_SECONDS`. By default a server hangs up on who asks more than twice in vain."""
    after = int(PING_SECONDS * 1000)
    waits = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    endless = ("grpc.http2.max_pings_without_data", "grpc.http2.max_ping_strikes")
    return [*((name, after) for name in waits), *((name, 0) for name in endless)]


def channel(address: str, tls: TLS | None = None, deadline_seconds: float | None = DEADLINE_SECONDS) -> aio.Channel:
    """A channel to `host:port`; closes itself as an async context manager.

    deadline_seconds  of calls that name no deadline, and the longest any call but the `LASTING` ones may name; None:
                      each may name any, and one that names none lasts
    """
    methods: list[dict[str, Any]] = [{"name": [{"service": service, "method": method} for service, method in LASTING]}]
    if deadline_seconds is not None:
        methods.append({"name": [{}], "timeout": f"{deadline_seconds:.3f}s"})
    policy = {"methodConfig": methods}
    # A server that comes back is found again within a second; gRPC alone would wait up to two minutes.
    backoff = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
    options: list[tuple[str, Any]] = [*_SIZES, *backoff, *_pings(), ("grpc.service_config", json.dumps(policy))]
    if tls:
        if tls.name:
            options.append(("grpc.ssl_target_name_override", tls.name))
        return aio.secure_channel(address, tls.client(), options)
    return aio.insecure_channel(address, options)


def server(guards: Sequence[Guard] = (), authority: Authority | None = None) -> aio.Server:
    """A server, not yet listening, that answers errors with their status.

    guards     put around every call, the first outermost; `statuses` stands inside them all
    authority  reads the token that every call has to show but the `OPEN` ones; None: nobody has to
    """
    # Without sharing of ports a second process on the same port fails at once instead of taking half the calls.
    patience = ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000))
    options = [*_SIZES, *_pings(), ("grpc.so_reuseport", 0), patience]
    interceptors: list[aio.ServerInterceptor] = [Guarded(guard) for guard in (*guards, statuses)]
    if authority is not None:
        interceptors.append(Authenticated(authority))
    return aio.server(interceptors=interceptors, options=options)


def listen(to: aio.Server, address: str, tls: TLS | None = None) -> int:
    """Let a server listen on `host:port`, port 0 for any that is free; answers the port.

    Raises Unavailable if the address cannot be had.
    """
    try:
        return to.add_secure_port(address, tls.server()) if tls else to.add_insecure_port(address)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {address}: {error}") from error


def claims(context: Context) -> Claims:
    """What the caller is and may do; where no tokens are looked at, whatever the tenant it names may.

    Raises InvalidInput for a name that is none.
    """
    return _caller.get() or Claims(_said(context.invocation_metadata() or (), TENANT_KEY) or DEFAULT_TENANT)


def tenant(context: Context) -> str:
    """Whose call this is. Raises Forbidden for who came by a link: whoever serves them looks at their `claims`.

    Raises InvalidInput for a name that is none.
    """
    caller = claims(context)
    if caller.role in SHARED:
        raise Forbidden(f"a token of role {caller.role} is not for this")
    return caller.tenant


def _said(metadata: Iterable[tuple[str, str | bytes]], key: str) -> str:
    """What a call says under a key, empty for nothing."""
    return next((str(value) for name, value in metadata if name == key), "")
