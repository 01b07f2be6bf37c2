"""Looking after the index from the command line: `worldkv retriever ...`.

What needs libraries is imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from worldkv.admin_options import Authority, Certificate, Deadline, Key, Token
from worldkv.admin_rows import AsJson, Row, show
from worldkv.errors import WorldKVError

HERE = ("127.0.0.1:7080",)
"""Where the index is if nobody says."""

retriever = typer.Typer(help="What the replicas of the index hold.", no_args_is_help=True)


@retriever.callback()
def service() -> None:
    """What the replicas of the index hold."""


@retriever.command()
def stat(
    replica: Annotated[
        list[str] | None, typer.Option(envvar="WORLDKV_REPLICAS", help="host:port or name=host:port; several times.")
    ] = None,
    members: Annotated[
        Path | None,
        typer.Option(envvar="WORLDKV_REPLICA_MEMBERS", help="File that names the replicas, if no --replica does."),
    ] = None,
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
    deadline: Deadline = 30.0,
    as_json: AsJson = False,
) -> None:
    """What each replica says of itself."""
    from worldkv.auth import Bearer
    from worldkv.client import MembershipFile, RetrieverClient, RetrieverClientConfig, fixed
    from worldkv.rpc import TLS

    tls = TLS(certificate, key, authority)
    config = RetrieverClientConfig(deadline_seconds=deadline, tls=tls, bearer=Bearer(token))
    where = MembershipFile(members) if members and not replica else fixed(*(replica or HERE))

    async def ask() -> list[Row]:
        async with RetrieverClient(where, config) as client:
            told = await client.stats()
        return [
            {
                "replica": name,
                "answers": each is not None,
                "branches": each.branches if each else None,
                "chunks": each.chunks if each else None,
                "rebuilt": each.rebuilt if each else None,
                "used_bytes": each.nbytes if each else None,
            }
            for name, each in told.items()
        ]

    rows = asyncio.run(ask())
    show(rows, as_json)
    silent = [row["replica"] for row in rows if not row["answers"]]
    if silent:
        raise WorldKVError(f"replicas that do not answer: {', '.join(silent)}")
