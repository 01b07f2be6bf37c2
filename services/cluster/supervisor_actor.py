"""The supervisor as a Ray actor: restarted by Ray, it finds the parts that run, and goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import ray

from services.cluster import fleet
from services.cluster.config import Plan
from services.cluster.kinds import reachable
from services.cluster.part import log_to
from services.cluster.ray_units import A_BIT, RayUnits, node_address, remote
from services.cluster.roster import KINDS, Roster
from services.cluster.supervisor import Supervisor
from worldkv.errors import WorldKVError
from worldkv.service import ServiceConfig, configure_logs, serve

NAME = "supervisor"
HEAD = {"node:__internal_head__": A_BIT}
"""What only the head node has: where that is gone so is Ray, and with it all that a supervisor could do."""

_log = logging.getLogger(__name__)


class Life(NamedTuple):
    """How a supervisor is.

    fleet    host:port that it serves on; empty: not yet
    gateway  host:port of every gateway
    web      the same of their web faces
    ended    it is done, in order
    trouble  why it cannot work, in words
    """

    fleet: str = ""
    gateway: tuple[str, ...] = ()
    web: tuple[str, ...] = ()
    ended: bool = False
    trouble: str = ""


@remote(num_cpus=0, resources=HEAD, max_restarts=-1, max_task_retries=-1, max_concurrency=4)
class SupervisorActor:
    """Runs a supervisor, and its `Fleet`, in a thread with an event loop of its own.

    plan    what there is to run
    folder  for logs and memberships, the same on every node
    stays   whether Ray is only there for this service: the actor stays when all has ended, and goes with Ray
    """

    def __init__(self, plan: Plan, folder: Path, stays: bool) -> None:
        self._log = folder / "logs" / f"{NAME}.log"
        log_to(self._log)
        self._plan, self._folder, self._stays = plan, folder, stays
        self._life, self._begun = Life(), Event()
        self._supervisor: Supervisor | None = None
        self._thread = Thread(target=self._run, name=NAME, daemon=True)
        self._thread.start()

    def life(self) -> Life:
        """How it is."""
        return self._life

    def stop(self) -> None:
        """Begin to end all parts."""
        self._begun.wait()
        if self._supervisor is not None:
            asyncio.run_coroutine_threadsafe(self._supervisor.stop(), self._loop)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except WorldKVError as error:
            self._tell(trouble=str(error))
        finally:
            self._begun.set()
            if not self._life.ended and not self._life.trouble:
                self._tell(trouble=f"the supervisor failed, see {self._log}")
        if self._life.ended and not self._stays:
            ray.kill(ray.get_actor(NAME))

    async def _serve(self) -> None:
        config, self._loop = self._plan.cluster, asyncio.get_running_loop()
        host = config.host or node_address()
        address, security = f"{host}:{config.fleet_port}", config.security
        security.check_admin(address)
        service = ServiceConfig(address, tls=config.tls or security.server, auth=security.auth, drain_seconds=2.0)
        configure_logs(NAME, service)
        units = RayUnits(self._plan, self._folder, self._stays)
        supervisor = self._supervisor = Supervisor(
            units,
            config.supervision,
            {kind: config.parts.of(kind).count for kind in KINDS},
            config.elsewhere.members(),
            await units.found(),
            int(time.time()),  # higher than those of a service before this one: its clients may still be there
            self._see,
        )
        where = ray.get_runtime_context().gcs_address
        async with serve(service, fleet.servicers(supervisor, where, self._plan.redis)) as serving:
            supervisor.begin(reachable(serving.address, node_address()))
            self._begun.set()
            self._tell(fleet=serving.address)
            await supervisor.ended.wait()
        self._tell(ended=True)

    def _see(self, roster: Roster) -> None:
        """There is a new roster: memberships are where people and programs of this node look for them."""
        try:
            roster.write(self._folder)
        except OSError as error:  # parts have theirs
            _log.warning("memberships in %s are those of before: %s", self._folder, error.strerror)
        parts = self._supervisor.parts() if self._supervisor else ()
        doors = [part.where for part in parts if part.kind == "gateway" and part.where]
        self._tell(gateway=tuple(door.address for door in doors), web=tuple(door.web for door in doors if door.web))

    def _tell(self, **news: Any) -> None:
        self._life = self._life._replace(**news)
