"""python -m services.cluster --config FILE: Ray, and the supervisor on it, until all has ended.

`worldkv up` runs this. Where Ray runs already only the supervisor is put on it, and this program may end before it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated, Any, cast

import typer

# Before Ray is imported: it neither reports home nor writes a token into the home directory, and what it starts gives
# way to other programs (by 15 steps of niceness) only if one asks for it. Parts have dozens of threads, and begin in a
# process that has some already, where it is too late for `worldkv.heap.one_arena`.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("MALLOC_ARENA_MAX", "1")

import ray
from ray.exceptions import ActorDiedError, RayError

from services.cluster.rundir import RAY_IS_LATE, RunDir, Up
from services.cluster.supervisor_actor import NAME, Life, SupervisorActor
from services.cluster.topology import TopologyConfig
from worldkv.config import load
from worldkv.errors import AlreadyExists, InvalidConfig, Unavailable

LOOK_SECONDS = 0.25
"""Between two looks at the supervisor."""
PATIENCE_SECONDS = 30.0
"""That the supervisor may be away, until it counts as lost."""
LOOPBACK = "127.0.0.1"

Config = Annotated[Path | None, typer.Option(help="TOML; every key is in services/cluster/cluster.toml")]
Address = Annotated[str, typer.Option(help="Of a Ray cluster that runs; without it Ray is started here.")]
WithInput = Annotated[bool, typer.Option("--with-input", help="End when standard input ends.")]
Leave = Annotated[bool, typer.Option("--leave", help="With --address: go when the supervisor is there.")]


def main(config: Config = None, address: Address = "", with_input: WithInput = False, leave: Leave = False) -> None:
    """Bring WorldKV up, and keep Ray running until it has ended. Settings: WORLDKV_CLUSTER_... over the file."""
    run_dir = RunDir.of(os.environ)
    try:
        settings = load(TopologyConfig, "WORLDKV_CLUSTER_", config, os.environ)
        run_dir.make()
        run_dir.lock()  # until this process is gone
        told = threading.Event()
        _listen(told)
        with _ray(settings, address, run_dir) as up:
            _listen(told)  # again: Ray listens as well
            if with_input:
                threading.Thread(target=_until_input_ends, args=(told,), daemon=True).start()
            up = replace(up, client=settings.security.absolute().shown())
            _watch(_supervisor(settings, run_dir, bool(address)), run_dir, up, told, bool(address) and leave)
    except (AlreadyExists, InvalidConfig, Unavailable) as error:
        print(f"worldkv: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _listen(told: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())


@contextmanager
def _ray(settings: TopologyConfig, address: str, run_dir: RunDir) -> Iterator[Up]:
    """Ray, ours or somebody else's; ours is ended, and nothing of it is left."""
    common: dict[str, Any] = {"namespace": settings.namespace, "log_to_driver": False, "logging_level": "warning"}
    shared = (settings.kvstore.ram.prefix, settings.kvstore.serving.staging_prefix)
    if address:
        try:
            ray.init(address, **common)
        except ConnectionError as error:
            raise Unavailable(f"no Ray cluster answers at {address}: {error}") from error
        try:
            yield Up("", address)
        finally:
            ray.shutdown()
        return
    folder = run_dir.ray_folder()
    up = Up("", "", os.getpid(), str(folder), shared)
    try:
        yield replace(up, ray=_start_ray(folder, settings.object_store_bytes, common))
    finally:
        ray.shutdown()
        run_dir.clean(up)


def _start_ray(folder: Path, object_store_bytes: int, settings: dict[str, Any]) -> str:
    """Start Ray here; its address. Ends with RAY_IS_LATE if it is not there within the time that it gives itself."""
    try:
        context: Any = ray.init(
            "local",
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            _temp_dir=str(folder),
            **settings,
        )
    except Exception as error:  # what Ray raises then is just this
        if type(error) is not Exception:
            raise
        print(f"worldkv: Ray did not start: {error}", file=sys.stderr)
        raise SystemExit(RAY_IS_LATE) from error  # what did start ends with this process
    return str(context.address_info["address"])


def _supervisor(settings: TopologyConfig, run_dir: RunDir, joined: bool) -> Any:
    """The supervisor, started. Raises AlreadyExists if there is one on this cluster."""
    plan = settings.plan()
    if not joined:
        plan = plan._replace(cluster=replace(plan.cluster, host=settings.host or LOOPBACK))
    try:
        return (
            cast(Any, SupervisorActor)
            .options(name=NAME, lifetime="detached")
            .remote(plan, (settings.folder or run_dir.path).absolute(), not joined)
        )
    except ValueError as error:
        raise AlreadyExists(
            f"WorldKV is up already on this Ray cluster, in the namespace {settings.namespace}"
        ) from error


def _watch(supervisor: Any, run_dir: RunDir, up: Up, told: threading.Event, leave: bool) -> None:
    """Say where the service is, until it has ended; end it when this is told to this process.

    Raises Unavailable, in words, if the supervisor cannot work.
    """
    heard, stopping = monotonic(), False
    while True:
        try:
            life: Life = ray.get(supervisor.life.remote(), timeout=PATIENCE_SECONDS)
        except ActorDiedError:
            break  # where it does not stay it goes when it has ended
        except RayError as error:  # it is being started again
            if monotonic() > heard + PATIENCE_SECONDS:
                raise Unavailable(f"the supervisor does not answer: {error}") from error
            told.wait(LOOK_SECONDS)
            continue
        heard = monotonic()
        if life.trouble:
            ray.kill(supervisor)
            raise Unavailable(life.trouble)
        if life.ended:
            break
        now = replace(up, fleet=life.fleet, gateway=life.gateway, web=life.web)
        if life.fleet and now != run_dir.read():
            run_dir.write(now)
        if life.fleet and leave:
            return
        if told.is_set() and not stopping:
            stopping = True
            supervisor.stop.remote()
        sleep(LOOK_SECONDS) if stopping else told.wait(LOOK_SECONDS)
    run_dir.clean(up)


def _until_input_ends(told: threading.Event) -> None:
    while sys.stdin.buffer.read(1):
        pass
    told.set()


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
