"""Bringing the service up and down from the command line: `worldkv up`, `status`, `scale` and `down`.

Only `up` starts anything: a process of its own, which runs Ray (services/cluster/__main__.py). All else is asked of the
supervisor over gRPC. What needs libraries is imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from worldkv.admin_options import Authority, Certificate, Key, Token
from worldkv.admin_rows import AsJson, show
from worldkv.errors import AlreadyExists, DeadlineExceeded, InvalidInput, Unavailable, WorldKVError

if TYPE_CHECKING:
    from rich.live import Live

    from services.cluster.rundir import RunDir, Up
    from worldkv.auth import Metadata
    from worldkv.rpc import TLS
    from worldkv.v1.fleet_pb2 import FleetPart, FleetStatusResponse, Wanted
    from worldkv.v1.fleet_pb2_grpc import FleetAsyncStub

PREFIX = "WORLDKV_CLUSTER_"
LOOK_SECONDS = 0.5
"""Between two looks at what goes on."""
ASK_SECONDS = 5.0
"""That the supervisor may take to say how all is."""
TRIES = 3
"""Times that Ray is started until `up` gives up: on a busy machine it may not be there in the time it gives itself."""
GIVE_UP = 3
"""Times that a part may be started again until `up` gives up."""

SILENT_SECONDS = 60.0
"""That the supervisor may not answer at all while it is waited for; it may be started again meanwhile."""

Count = Annotated[int | None, typer.Option(min=0, help="How many, over what the configuration says.")]
T = TypeVar("T")


def up(
    address: Annotated[str, typer.Option(help="Of a Ray cluster that runs; without it Ray is started here.")] = "",
    kvstore: Count = None,
    retriever: Count = None,
    generator: Count = None,
    gateway: Count = None,
    redis: Annotated[str, typer.Option(help="URL of a Redis that keeps worlds; without it they are in RAM.")] = "",
    config: Annotated[Path | None, typer.Option(help="TOML; every key is in services/cluster/cluster.toml.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is ready; `worldkv down` ends it.")] = False,
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
) -> None:
    """Bring the service up, on this machine or a Ray cluster, until Ctrl-C or `worldkv down`."""
    run_dir = _run_dir()
    _check_down(run_dir)
    counts = {"kvstore": kvstore, "retriever": retriever, "generator": generator, "gateway": gateway}
    chosen = {f"PARTS__{kind.upper()}__COUNT": str(count) for kind, count in counts.items() if count is not None}
    if redis:
        chosen["KVSTORE__REDIS__URL"] = redis  # not among the words of a command: others may see those
    words = [*(("--config", str(config)) if config else ()), *(("--address", address) if address else ())]
    words += [*(("--leave",) if address and detach else ()), *(() if detach else ("--with-input",))]
    run_dir.make()

    def launch() -> subprocess.Popen[bytes]:
        with run_dir.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "services.cluster", *words],
                env={**os.environ, **{PREFIX + name: text for name, text in chosen.items()}},
                stdin=subprocess.DEVNULL if detach else subprocess.PIPE,  # which ends with us, however we end
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C here is not one there: all is ended in order
            )

    asyncio.run(_bring_up(Watched(run_dir, _shown(authority, certificate, key, token), launch), detach))


def status(
    as_json: AsJson = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once instead of again and again.")] = False,
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
) -> None:
    """What serves where, and how it is."""
    from worldkv.admin_fleet_view import rows, summary

    watched = Watched(_run_dir(), _shown(authority, certificate, key, token))
    if as_json:
        show(rows(asyncio.run(watched.status())), True)
    elif once or not sys.stdout.isatty():
        _console().print(summary(asyncio.run(watched.status())))
    else:
        with suppress(KeyboardInterrupt):
            asyncio.run(_show_status(watched))


def scale(
    wanted: Annotated[list[str], typer.Argument(help="How many of which: kvstore=3 generator=2.")],
    as_json: AsJson = False,
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
) -> None:
    """Have more or fewer parts of some kinds, while people walk; returns when they have come or gone."""
    from worldkv.v1.fleet_pb2 import ScaleRequest

    request = ScaleRequest(wanted=map(_wanted, wanted))
    watched = Watched(_run_dir(), _shown(authority, certificate, key, token))
    asyncio.run(_while_shown(watched, lambda fleet, shown: fleet.Scale(request, metadata=shown)))
    from worldkv.admin_fleet_view import rows, table

    now = asyncio.run(watched.status())
    if as_json:
        show(rows(now), True)
    else:
        _console().print(table(now))


def down(authority: Authority = None, certificate: Certificate = None, key: Key = None, token: Token = "") -> None:
    """End the service in order: sessions are suspended, queues emptied. Returns when all has ended."""
    run_dir = _run_dir()
    there = run_dir.read()
    if there is None:
        raise Unavailable(f"WorldKV is not up in {run_dir.path}")
    if there.pid and not run_dir.locked:
        run_dir.clean(there)
        print(f"WorldKV had been killed (process {there.pid}); what it left is removed")
        return
    asyncio.run(_end(Watched(run_dir, _shown(authority, certificate, key, token))))
    print("WorldKV has ended")


class Watched:
    """A service that is up, or about to be.

    run_dir  of it
    shown    towards its supervisor: transport security and token, where they are not what `up` says
    launch   starts the process that keeps it up, if that is to be a child of this one
    process  that one
    """

    def __init__(
        self, run_dir: RunDir, shown: tuple[TLS, str], launch: Callable[[], subprocess.Popen[bytes]] | None = None
    ) -> None:
        self.run_dir, self._shown, self._launch, self._tries = run_dir, shown, launch, TRIES
        self.process = launch() if launch else None

    @property
    def up(self) -> Up:
        """Where it is. Raises Unavailable if it is not up, or was killed."""
        there = self.run_dir.read()
        if there is None:
            raise Unavailable(f"WorldKV is not up in {self.run_dir.path}: `worldkv up` brings it up")
        if there.pid and not self.run_dir.locked:
            raise Unavailable(f"WorldKV was killed (process {there.pid}): `worldkv down` removes what it left")
        return there

    @asynccontextmanager
    async def fleet(self) -> AsyncIterator[tuple[FleetAsyncStub, Metadata]]:
        """Its supervisor, and what is shown to it; errors of calls are raised as they were there."""
        from worldkv import rpc
        from worldkv.auth import Bearer
        from worldkv.v1.fleet_pb2_grpc import FleetStub

        up, (tls, token) = self.up, self._shown
        bearer = Bearer(token) if token else up.bearer
        with rpc.translated():
            async with rpc.channel(up.fleet, tls or up.tls, deadline_seconds=None) as channel:
                yield FleetStub(channel), bearer.metadata()

    async def status(self) -> FleetStatusResponse:
        """How all is."""
        from worldkv.v1.fleet_pb2 import FleetStatusRequest

        async with self.fleet() as (fleet, shown):
            return await fleet.FleetStatus(FleetStatusRequest(), timeout=ASK_SECONDS, metadata=shown)

    async def status_if_any(self) -> FleetStatusResponse | None:
        """How all is; None while nobody says so: Ray may be about to start the supervisor, or start it again."""
        try:
            return await self.status()
        except (Unavailable, DeadlineExceeded):
            return None

    def check(self) -> None:
        """Raise Unavailable, in its words, if the process that should keep the service up failed; where another try
        may help it is tried again."""
        from services.cluster.rundir import RAY_IS_LATE

        code = None if self.process is None else self.process.poll()
        if code == RAY_IS_LATE and self._launch is not None and self._tries > 1:
            self._tries, self.process = self._tries - 1, self._launch()
        elif code:
            said = self.run_dir.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            words = next((line.removeprefix("worldkv: ") for line in said if line.startswith("worldkv: ")), "")
            last = said[-1] if said else f"it ended with {code}"
            raise Unavailable(words or f"{last} (all of it is in {self.run_dir.log})")

    def check_coming(self) -> None:
        """`check`, while it is waited for. Raises Unavailable, too, if it was ended from elsewhere."""
        self.check()
        if self.process is not None and self.process.poll() == 0 and self.run_dir.read() is None:
            raise Unavailable("WorldKV was ended before it was ready")


async def _bring_up(watched: Watched, detach: bool) -> None:
    from worldkv.admin_fleet_view import welcome

    try:
        now = await _until_ready(watched)
        _console().print(welcome(now, watched.run_dir, detach))
        if not detach and watched.process is not None:
            while watched.process.poll() is None:  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(LOOK_SECONDS)
            watched.check()
            print("WorldKV has ended")
    except (WorldKVError, asyncio.CancelledError) as error:
        if watched.process is not None:
            print("ending ...", file=sys.stderr)
            asyncio.current_task().uncancel()  # type: ignore[union-attr]  # a second Ctrl-C is one again
            await _end(watched)
        if isinstance(error, WorldKVError):
            raise
        print("WorldKV has ended")


async def _until_ready(watched: Watched) -> FleetStatusResponse:
    """Show parts as they come; how all is when they are there. Raises Unavailable if one does not come."""
    from worldkv.admin_fleet_view import TROUBLE, table
    from worldkv.v1.fleet_pb2 import PART_STATE_STARTING

    with _live("starting Ray; this takes some seconds ...") as live:
        heard = monotonic()
        while True:
            watched.check_coming()
            now, there = await watched.status_if_any(), watched.run_dir.read()
            if now is not None or there is None:
                heard = monotonic()
            elif monotonic() > heard + SILENT_SECONDS:
                raise Unavailable(f"the supervisor at {there.fleet} does not answer")
            if now is not None:
                live.update(table(now))
                starting = [part for part in now.parts if part.state == PART_STATE_STARTING and _can(part, now)]
                for part in starting:
                    if part.restarts >= GIVE_UP:
                        raise Unavailable(f"{part.name} does not start: {part.figures[TROUBLE]}")
                if now.parts and not starting:
                    return now
            await asyncio.sleep(LOOK_SECONDS)


def _can(part: FleetPart, now: FleetStatusResponse) -> bool:
    """Whether a part may come: gateways wait where there are no generators."""
    from worldkv.v1.fleet_pb2 import PART_KIND_GATEWAY, PART_KIND_GENERATOR

    return part.kind != PART_KIND_GATEWAY or any(each.kind == PART_KIND_GENERATOR for each in now.parts)


async def _show_status(watched: Watched) -> None:
    from worldkv.admin_fleet_view import summary

    with _live("") as live:
        while True:
            live.update(summary(await watched.status()))
            await asyncio.sleep(2 * LOOK_SECONDS)


async def _end(watched: Watched) -> None:
    """End everything, and wait until it has."""
    from worldkv.v1.fleet_pb2 import StopRequest

    process, there = watched.process, watched.run_dir.read()
    if process is not None and process.poll() is None:  # it may be just about to come up
        process.terminate()
        while process.poll() is None:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(LOOK_SECONDS)
    elif there is not None:
        try:
            await _while_shown(watched, lambda fleet, shown: fleet.Stop(StopRequest(), metadata=shown))
        except Unavailable as error:
            if there.pid:
                raise
            hint = f"if the Ray cluster at {there.ray} is gone, remove {watched.run_dir.up_file}"
            raise Unavailable(f"{error}; {hint}") from error
        if not there.pid:
            watched.run_dir.clean(there)
    while watched.run_dir.locked:  # noqa: ASYNC110 - another process has no event
        await asyncio.sleep(LOOK_SECONDS / 5)


async def _while_shown(watched: Watched, ask: Callable[[FleetAsyncStub, Metadata], Awaitable[T]]) -> T:
    """What the supervisor answers, which may take its time; what goes on is shown meanwhile."""
    from worldkv.admin_fleet_view import table

    async def call() -> T:
        async with watched.fleet() as (fleet, shown):
            return await ask(fleet, shown)

    calling = asyncio.ensure_future(call())
    try:
        with _live("") as live:
            while not calling.done():
                now = await watched.status_if_any()
                live.update(table(now) if now is not None else "")
                await asyncio.wait([calling], timeout=LOOK_SECONDS)
    finally:
        calling.cancel()
    return await calling


def _wanted(text: str) -> Wanted:
    from worldkv.admin_fleet_view import KIND
    from worldkv.v1 import fleet_pb2 as pb

    name, _, count = text.partition("=")
    kinds = {name: kind for kind, name in KIND.items()}
    if name not in kinds or not count.isdecimal():
        raise InvalidInput(f"{text!r}: expected KIND=COUNT, with one of {', '.join(kinds)}")
    return pb.Wanted(kind=kinds[name], count=int(count))


def _check_down(run_dir: RunDir) -> None:
    """Raise AlreadyExists if a service is up here; what one that was killed left behind is removed."""
    there = run_dir.read()
    if run_dir.locked or (there is not None and not there.pid):
        ways = "`worldkv status` shows it, `worldkv down` ends it"
        raise AlreadyExists(f"WorldKV is up already in {run_dir.path}: {ways}")
    if there is not None:
        run_dir.clean(there)
        print(f"WorldKV had been killed (process {there.pid}); what it left is removed", file=sys.stderr)


def _run_dir() -> RunDir:
    from services.cluster.rundir import RunDir

    return RunDir.of(os.environ)


def _shown(authority: Path | None, certificate: Path | None, key: Path | None, token: str) -> tuple[TLS, str]:
    from worldkv.rpc import TLS

    return TLS(certificate, key, authority), token


def _live(text: str) -> Live:
    """What is redrawn again and again, on a terminal; nothing elsewhere."""
    from rich.live import Live
    from rich.text import Text

    return Live(Text(text), console=_console(), transient=True, refresh_per_second=4)


def _console() -> Any:
    from rich.console import Console

    from worldkv.admin_rows import WIDE

    return Console(width=None if sys.stdout.isatty() else WIDE)
