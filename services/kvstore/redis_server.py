"""The way to Redis: connections, the breaker, and what the server can promise.

redis-py owns connections, TLS and the routing of a cluster. All of it runs in threads, so that the event loop never
waits: one pool of threads for small commands, one for bulk bytes of few pieces, one for those of many, so that a
large part never stands in the way of a small one. A watch asks the server once a second, and soon after a failure.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from threading import Lock
from typing import Any, TypeVar

from redis import Connection, Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut
from redis.retry import Retry

from services.kvstore.redis_breaker import Breaker
from services.kvstore.redis_config import RedisConfig
from services.kvstore.redis_link import Link, Links
from services.kvstore.redis_promise import Promise, examine, warn_of_eviction
from worldkv.errors import InvalidConfig, OverBudget, Unavailable

T = TypeVar("T")
Client = Any
"""`redis.Redis` or `redis.RedisCluster`: their types share no base."""
COMMAND_THREADS = 8
FEW = 4
"""Pieces of a transfer that counts as small."""
WATCH_SECONDS = 1.0
"""Between two questions whether the server is there."""
_GONE = (Disconnected, TimedOut, BusyLoadingError, ReadOnlyError, RedisClusterException, OSError)
"""Errors after which the server is not asked again for a while."""

_FULL = "OOM command not allowed"
"""What a script that ran out of room says, whatever stands around it."""

_log = logging.getLogger(__name__)


class Transfer:
    """Bulk bytes that several threads move at once; may be stopped from any thread."""

    def __init__(self) -> None:
        self._lock, self._links, self.stopped = Lock(), set[Link](), False

    def enter(self, link: Link) -> None:
        """A thread uses a link. Raises Disconnected if the transfer was stopped before."""
        with self._lock:
            self._links.add(link)
            if self.stopped:
                link.abort()

    def leave(self, link: Link) -> bool:
        """It no longer does; answers whether the link was left alone."""
        with self._lock:
            self._links.discard(link)
            return not self.stopped

    def stop(self) -> None:
        """Make every thread of it fail at once."""
        with self._lock:
            self.stopped = True
            for link in self._links:
                link.abort()


class RedisServer:
    """A Redis, Cluster or Valkey that tiers, catalogs and snapshots share; made by `connect`.

    breaker  refuses calls while the server does not answer
    """

    def __init__(self, config: RedisConfig, on_lost: Callable[[], None]) -> None:
        self.config, self._on_lost = config, on_lost
        self.breaker = Breaker(config.retry_seconds, config.longest_retry_seconds)
        self._client: Client = None
        self._promise = Promise.MEMORY
        self._origin = b""  # what the server was marked with when it was last seen
        self._links = Links(config.timeout_seconds)
        self._transfers: set[Transfer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tripped = asyncio.Event()
        names = (("command", COMMAND_THREADS), ("few", config.connections), ("many", config.connections), ("watch", 1))
        self._threads = {name: ThreadPoolExecutor(count, f"redis-{name}") for name, count in names}

    @property
    def available(self) -> bool:
        """Whether it answered when last asked."""
        return not self.breaker.open

    async def call(self, work: Callable[[Client], T]) -> T:
        """What `work` makes of the client, in a thread. Raises Unavailable, and OverBudget if the server is full."""

        def run() -> T:
            self.breaker.check()
            return work(self._client)

        self.breaker.check()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads["command"], run)
        except (RedisError, OSError) as error:
            raise self._translated(error) from error

    async def write(self, script: str, keys: list[str], args: list[Any]) -> Any:
        """Run a script that writes, all its keys in one slot; returns when what it wrote is as safe as promised."""

        def work(client: Client) -> Any:
            if self._promise is not Promise.WAIT:
                return client.eval(script, len(keys), *keys, *args)
            pipeline = client.pipeline(transaction=False)
            pipeline.eval(script, len(keys), *keys, *args)
            pipeline.execute_command("WAITAOF", 1, 0, int(self.config.timeout_seconds * 1000))
            answer, (local, _) = pipeline.execute()
            if not local:
                raise TimedOut("the server's disk does not follow")
            return answer

        return await self.call(work)

    async def flush(self) -> None:
        """Return when all that was written before, by anybody, is as safe as promised."""
        if self._promise is Promise.WAIT:
            await self.write("return redis.call('SET', KEYS[1], 1)", [f"{self.config.prefix}:flush"], [])

    async def transfer(self, slot: str, pieces: int, work: Callable[[Link], None]) -> None:
        """Run `work` in several threads, each with a link to the server that has the key `slot`, until all ended.

        When this returns or raises, cancelled too, no thread of it works any more. Raises what `work` raises, and
        Unavailable, and OverBudget if the server is full.
        """
        self.breaker.check()
        transfer = Transfer()
        count = min(self.config.connections, pieces)
        threads = self._threads["few" if pieces <= FEW else "many"]
        futures = [threads.submit(self._work, transfer, slot, work) for _ in range(count)]
        self._transfers.add(transfer)
        try:
            await _settled(transfer, futures)
        except (RedisError, OSError) as error:
            raise self._translated(error) from error
        finally:
            self._transfers.discard(transfer)

    def later(self, work: Callable[[Client], object]) -> None:
        """Do something nobody waits for, if the server is there."""

        async def run() -> None:
            with suppress(Unavailable, OverBudget):
                await self.call(work)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _work(self, transfer: Transfer, slot: str, work: Callable[[Link], None]) -> None:
        if transfer.stopped:
            return
        self.breaker.check()
        address, make = self._route(slot)
        link = self._links.take(address, make)
        transfer.enter(link)
        whole = False
        try:
            work(link)
            whole = True
        finally:
            if transfer.leave(link) and whole:
                self._links.give_back(address, link)
            else:
                link.close()

    def _route(self, slot: str) -> tuple[str, Callable[[], Connection]]:
        if not self.config.cluster:
            return "", self._client.connection_pool.make_connection
        node = self._client.get_node_from_key(slot)
        return node.name, self._client.get_redis_connection(node).connection_pool.make_connection

    def _translated(self, error: Exception) -> Exception:
        """What an error of the server is to callers; opens the breaker if the server is gone."""
        if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and _FULL in str(error)):
            return OverBudget(f"Redis has no room left: {error}")
        if isinstance(error, AskError):  # also MovedError
            self.later(lambda client: client.nodes_manager.initialize())
            return Unavailable(f"the cluster moves its slots: {error}")
        if isinstance(error, _GONE):
            self._trip(f"Redis does not answer: {str(error) or type(error).__name__}")
            return Unavailable(self.breaker.reason)
        return Unavailable(f"Redis refuses: {error}")

    def _trip(self, reason: str) -> None:
        if not self.breaker.trip(reason):
            return
        _log.warning("%s", reason)
        for transfer in self._transfers:
            transfer.stop()
        self._links.clear()
        self._tripped.set()

    async def watch(self) -> None:
        """Ask the server for ever: close the breaker when it answers, open it when it does not."""
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._tripped.wait(), WATCH_SECONDS)
            for pause in self.breaker.pauses():
                if self.breaker.open:
                    await asyncio.sleep(pause)
                with suppress(InvalidConfig):  # told as the breaker's reason
                    await self.ask()
                if not self.breaker.open:
                    break

    async def ask(self) -> None:
        """Ask the server once, and open or close the breaker. Raises InvalidConfig if it cannot promise enough."""
        try:
            origin, self._promise = await asyncio.get_running_loop().run_in_executor(self._threads["watch"], self._look)
        except InvalidConfig as error:
            self._trip(str(error))
            raise
        except (RedisError, OSError) as error:
            self._trip(f"Redis does not answer: {str(error) or type(error).__name__}")
            return
        lost, self._origin = bool(self._origin) and self._origin != origin, origin
        if self.breaker.open:
            _log.info("Redis answers")
        self._tripped.clear()
        self.breaker.close()
        if lost:
            _log.warning("Redis came back without what it held")
            self._on_lost()

    def _look(self) -> tuple[bytes, Promise]:
        """The server's mark, made if it has none, and what it can promise."""
        if self._client is None:
            self._client = self._connected()
        client, name = self._client, f"{self.config.prefix}:origin"
        client.ping()
        if not self._origin:
            warn_of_eviction(client, self.config.cluster)
        promise = examine(client, self.config.durable, self.config.cluster)
        with suppress(OutOfMemoryError):
            client.set(name, secrets.token_bytes(8), nx=True)
        return bytes(client.get(name) or b""), promise

    def _connected(self) -> Client:
        seconds = self.config.timeout_seconds
        options: dict[str, Any] = {
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
        }
        return (RedisCluster if self.config.cluster else Redis).from_url(self.config.url, **options)

    async def close(self) -> None:
        """End all threads and close all connections; waits for what still runs, at most some timeouts."""
        for transfer in self._transfers:
            transfer.stop()
        for task in [*self._tasks]:
            await task
        self.breaker.trip("closed")
        for threads in self._threads.values():
            await asyncio.to_thread(threads.shutdown)
        self._links.clear()
        if self._client is not None:
            self._client.close()


async def _settled(transfer: Transfer, futures: list[Future[None]]) -> None:
    """Wait for all, and raise the first error; at the first, or cancelled, the others are stopped and waited for."""
    waiting = {asyncio.wrap_future(future) for future in futures}
    cancelled: asyncio.CancelledError | None = None
    errors: list[BaseException] = []
    while waiting:
        try:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError as error:
            done, cancelled = set(), error
        errors += [found for each in done if not each.cancelled() and (found := each.exception())]
        if errors or cancelled:
            transfer.stop()
            for future in futures:
                future.cancel()
    if cancelled:
        raise cancelled
    if errors:
        raise errors[0]
    if transfer.stopped:
        raise Disconnected("the server went away meanwhile")


@asynccontextmanager
async def connect(config: RedisConfig, on_lost: Callable[[], None] = lambda: None) -> AsyncIterator[RedisServer]:
    """Connect, and ask again in the background whenever the server was gone; closes everything at the end.

    on_lost  called when the server came back without what it held

    Raises InvalidConfig if the server answers and cannot promise what `config.durable` asks for. A server that does
    not answer raises nothing here: it is unavailable until it does.
    """
    server = RedisServer(config, on_lost)
    try:
        await server.ask()
        watch = asyncio.create_task(server.watch())
        try:
            yield server
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
    finally:
        await server.close()
