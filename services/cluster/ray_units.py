"""Parts as Ray actors. All that is known of Ray is here, in `supervisor_actor.py` and in `__main__.py`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError
from ray.util import list_named_actors

from services.cluster.config import Plan
from services.cluster.kinds import Place, place_of, servicers, settings_of
from services.cluster.part import PartProcess, log_to
from services.cluster.roster import Kind, Pulse, Roster, Where, parsed
from worldkv.errors import InvalidInput, NotFound, Unavailable, WorldKVError
from worldkv.heap import begun
from worldkv.service import configure_logs
from worldkv.shared import live_on

_log = logging.getLogger(__name__)

NAME_SECONDS = 15.0
"""Until the name of an actor that was killed is free: one that is frozen is given some seconds by Ray."""
LOOK_SECONDS = 0.1
A_BIT = 0.001
"""Of a resource that only says what a node is."""
remote: Any = ray.remote  # its types know no actors


@remote(max_restarts=0, max_task_retries=0, concurrency_groups={"serve": 4, "control": 16})
class ServiceActor:
    """A part in a process of its own: `PartProcess`, asked from two threads."""

    def __init__(self, place: Place, log: Path, threads: int) -> None:
        log_to(log)
        type(self).__name__ = place.name  # as which `ps` shows this process
        os.environ["OMP_NUM_THREADS"] = str(threads or os.cpu_count() or 1)  # before torch is imported
        self._place = place
        self._part: PartProcess | None = None

    @ray.method(concurrency_group="serve")
    async def start(self, settings: str, roster: Roster) -> Where:
        kind = parsed(self._place.name)[0]
        kept = settings_of(kind, settings)
        if self._place.apart:
            live_on(ray.get_runtime_context().get_node_id())
        configure_logs(self._place.name, kept.service)
        part = PartProcess(self._place, servicers(kind))
        where = await part.start(kept, roster, node_address())
        begun()
        self._part = part
        return where

    @ray.method(concurrency_group="serve")
    async def end(self) -> None:
        if self._part is not None:
            await self._part.end()

    @ray.method(concurrency_group="control")
    async def pulse(self) -> Pulse:
        return self._serving().pulse()

    @ray.method(concurrency_group="control")
    async def publish(self, roster: Roster) -> None:
        self._serving().publish(roster)

    def _serving(self) -> PartProcess:
        if self._part is None:
            raise Unavailable(f"{self._place.name} does not serve yet")
        return self._part


def node_address() -> str:
    """Of this node, as others reach it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class RayUnits:
    """Runs parts as named, detached actors: they outlive the supervisor that started them, and the next one finds them.

    Whatever asks Ray's control service and waits for the answer runs in a thread of its own: when that service is slow
    or gone, the supervisor still sees to what it can.

    plan    what there is to run
    folder  for logs and memberships, the same on every node
    fixed   whether the cluster has what it will ever have: what it has not got is not waited for
    """

    def __init__(self, plan: Plan, folder: Path, fixed: bool) -> None:
        self._plan, self._folder, self._fixed = plan, folder, fixed
        self._actors: dict[str, Any] = {}

    async def found(self) -> dict[str, Pulse]:
        """Parts that run already and serve. Actors that do not are ended."""
        names = list(filter(_is_part, await asyncio.to_thread(list_named_actors)))
        pulses = dict(zip(names, await asyncio.gather(*map(self._serves, names)), strict=True))
        await asyncio.gather(*(self.stop(name, 0) for name, pulse in pulses.items() if pulse is None))
        return {name: pulse for name, pulse in pulses.items() if pulse is not None}

    async def start(self, name: str, roster: Roster) -> Where:
        pulse = await self._serves(name)
        if pulse is not None:
            return pulse.where
        await self.stop(name, 0)
        kind = parsed(name)[0]
        place = place_of(self._plan.cluster, name, self._folder, self._plan.tls)
        log = self._folder / "logs" / f"{name}.log"
        wanted = await asyncio.to_thread(self._wanted, kind)
        options = {"name": name, "lifetime": "detached", "scheduling_strategy": "SPREAD", **wanted}
        service = cast(Any, ServiceActor).options(**options)
        with _words():
            actor = await asyncio.to_thread(service.remote, place, log, self._plan.cluster.parts.of(kind).threads)
            self._actors[name] = actor
            where: Where = await actor.start.remote(self._plan.settings[kind], roster)
        return where

    async def stop(self, name: str, seconds: float) -> None:
        self._actors.pop(name, None)
        actor = await asyncio.to_thread(_actor, name)
        if actor is None:
            return
        if seconds:
            try:
                async with asyncio.timeout(seconds):
                    await actor.end.remote()
            except TimeoutError:
                _log.warning("%s did not end within %g s", name, seconds)
            except RayError as error:
                _log.warning("%s ended badly: %s", name, _first_line(error))
        await asyncio.to_thread(ray.kill, actor)
        with suppress(TimeoutError):
            async with asyncio.timeout(NAME_SECONDS):
                while await asyncio.to_thread(_actor, name) is not None:  # noqa: ASYNC110 - Ray has no event for it
                    await asyncio.sleep(LOOK_SECONDS)

    async def ping(self, name: str) -> Pulse:
        with _words():
            pulse: Pulse = await (await self._living(name)).pulse.remote()
        return pulse

    async def publish(self, name: str, roster: Roster) -> None:
        with _words():
            await (await self._living(name)).publish.remote(roster)

    async def _living(self, name: str) -> Any:
        """The actor of this name, which may have died since it was found. Raises NotFound if there is none."""
        if name not in self._actors:
            actor = await asyncio.to_thread(_actor, name)
            if actor is None:
                raise NotFound(f"{name} has ended")
            self._actors[name] = actor
        return self._actors[name]

    async def _serves(self, name: str) -> Pulse | None:
        """How a part is that runs already; None if it does not."""
        with suppress(NotFound, Unavailable, TimeoutError):
            async with asyncio.timeout(self._plan.cluster.supervision.silent_seconds):
                return await self.ping(name)
        return None

    def _wanted(self, kind: Kind) -> dict[str, Any]:
        """What Ray sets aside for a part. Raises Unavailable, in words, if it has not got it and never will."""
        part, has = self._plan.cluster.parts.of(kind), ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = part.gpus if part.gpus is not None else float(kind == "generator" and has.get("GPU", 0) > 0)
        wanted: dict[str, Any] = {"num_cpus": part.cpus, "num_gpus": gpus}
        if part.resource:
            wanted["resources"] = {part.resource: A_BIT}
        if self._fixed:
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            named = [(part.resource, A_BIT)] if part.resource else []
            for key, number in [("CPU", part.cpus), ("GPU", gpus), *named]:
                if number > free.get(key, 0):
                    left = f"{free.get(key, 0):g} of {has.get(key, 0):g} are free"
                    raise Unavailable(f"it asks for {number:g} {key} and {left}; see parts.{kind} of the configuration")
        return {**wanted, "memory": part.memory_bytes} if part.memory_bytes else wanted


def _is_part(name: str) -> bool:
    try:
        return bool(parsed(name))
    except InvalidInput:
        return False


def _actor(name: str) -> Any:
    """The actor of this name; None if there is none."""
    try:
        return ray.get_actor(name)
    except ValueError:
        return None


@contextmanager
def _words() -> Iterator[None]:
    """Around calls of actors: raises their own errors as they left them, and Ray's in words."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, WorldKVError):
            raise error.cause from error
        raise Unavailable(f"it failed: {error.cause!r}") from error
    except ActorUnavailableError as error:
        raise Unavailable(_first_line(error)) from error
    except ActorDiedError as error:
        raise NotFound(f"its process died: {_first_line(error)}") from error
    except (RayError, ValueError) as error:
        raise Unavailable(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
