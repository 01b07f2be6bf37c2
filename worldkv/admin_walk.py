"""Walking from the command line: `worldkv walk`. What needs libraries is imported when it is run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from worldkv.admin_options import Authority, Certificate, Key, Tenant, Token
from worldkv.admin_rows import AsJson, show
from worldkv.errors import InvalidInput

if TYPE_CHECKING:
    from worldkv.rpc import TLS
    from worldkv.walking import Tally
    from worldkv.wire_sessions import Mode


TOKEN_SECONDS = 86_400.0
"""That a walk's own token is good for."""


def walk(
    path: Annotated[str, typer.Option(help="R L turn, W S D A walk, U J look up and down, _ waits.")] = "R90_L90",
    sessions: Annotated[int, typer.Option(min=1, max=1000, help="Walks at once, each in a world of its own.")] = 1,
    address: Annotated[
        str | None,
        typer.Option(envvar="WORLDKV_ADDRESS", help="host:port; without it: the service that `worldkv up` started."),
    ] = None,
    scene: Annotated[str, typer.Option(help="What a new world begins as; without it: the model's default.")] = "",
    picture: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Image file of what is seen first in a new world."),
    ] = None,
    tour: Annotated[str, typer.Option(help="Path through a new world that is shown from its true pictures.")] = "",
    mode: Annotated[str, typer.Option(help="What is remembered: worldkv, window or full.")] = "worldkv",
    selector: Annotated[str, typer.Option(help="How it is chosen; without it: as the service does.")] = "",
    recalled: Annotated[int | None, typer.Option(min=0, help="Chunks recalled at most; without it: all slots.")] = None,
    codec: Annotated[str, typer.Option(help="In which chunks are kept; without it: the service's.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise; each further session has the next one.")] = 0,
    world: Annotated[str, typer.Option(help="Name of a world, new or old; without it: a new one.")] = "",
    lockstep: Annotated[bool, typer.Option("--lockstep", help="Wait for memory, so that it can be repeated.")] = False,
    ahead: Annotated[int, typer.Option(min=0, help="Moves that are sent before their turn.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Folder for what is seen: films, or pictures.")] = None,
    record: Annotated[Path | None, typer.Option(help="File for where was walked, for `worldkv eval --walk`.")] = None,
    watch: Annotated[
        str, typer.Option(help="Id of somebody's walk for watching: nothing is walked, and the walk is shown.")
    ] = "",
    tenant: Tenant = "default",
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Walk a path in worlds of a running service, and say how it went."""
    from worldkv.actions import parse_path
    from worldkv.client import MemoryChange, WalkClient
    from worldkv.rpc import TLS
    from worldkv.walking import walk_all, watch_one

    if world and sessions > 1:
        raise InvalidInput(f"--world {world} is one world: walk it in one session, got --sessions {sessions}")
    if record and sessions > 1:
        raise InvalidInput(f"--record {record} is one file: record one session, got --sessions {sessions}")
    if not parse_path(path):
        raise InvalidInput("--path is empty: there is nothing to walk")
    chosen = {
        "scene": scene,
        "picture": picture.read_bytes() if picture else b"",
        "tour": tour,
        "mode": cast("Mode", mode),
        "world": world,
        "lockstep": lockstep,
        "pictures": "jpeg",
        "memory": MemoryChange(selector=selector or None, recalled=recalled, codec=codec or None),
    }
    openings = [{**chosen, "seed": seed + number} for number in range(sessions)]
    found, tls, shown = (address, None, "") if address else served(tenant)

    async def ask() -> list[Tally]:
        own = TLS(certificate, key, authority)
        async with WalkClient(found, tenant=tenant, tls=own or tls, token=token or shown) as client:
            if watch:
                return [await watch_one(client, watch, out, shown=not as_json)]
            return await walk_all(client, path, openings, ahead, out, record, shown=not as_json)

    tallies = asyncio.run(ask())
    if any(each.chunks for each in tallies):
        show([each.row for each in tallies if each.world], as_json)
    if (failed := next((each.failed for each in tallies if each.failed), None)) is not None:
        raise failed


def served(tenant: str) -> tuple[str, TLS | None, str]:
    """host:port of the gateway that `worldkv up` of this user started, else where one is by default; its transport
    security, and a token for this tenant, from whoever may read the service's secrets."""
    from services.cluster.rundir import RunDir
    from worldkv.auth import Authority, Claims
    from worldkv.client.walks import ADDRESS

    up = RunDir.of(os.environ).read()
    if up is None or not up.gateway:
        return ADDRESS, None, ""
    secret = up.bearer.secret
    token = Authority(secret).sign(Claims(tenant), TOKEN_SECONDS) if secret else ""
    return up.gateway[0], up.tls, token
