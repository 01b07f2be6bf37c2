"""Tokens from the command line: `worldkv token`. Whoever may read the secrets of a service may make them.

What needs libraries is imported when it is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from worldkv.auth import Role


def token(
    secret: Annotated[
        Path, typer.Option(envvar="WORLDKV_SECRET", help="File of secrets, one a line; the first one signs.")
    ],
    tenant: Annotated[str, typer.Option(envvar="WORLDKV_TENANT", help="Whom it speaks for.")] = "default",
    role: Annotated[str, typer.Option(help="tenant, operator, service, or of a link: watch, world.")] = "tenant",
    seconds: Annotated[float, typer.Option(help="That it is good for.")] = 86_400.0,
    session: Annotated[str, typer.Option(help="Of role watch: the session's id for watching.")] = "",
    world: Annotated[str, typer.Option(help="Of role world: the world's name.")] = "",
    at: Annotated[int | None, typer.Option(help="Of role world: the chunk that it is opened before.")] = None,
) -> None:
    """Print a token for a service that has these secrets."""
    from worldkv.auth import Authority, Claims

    print(Authority(secret).sign(Claims(tenant, cast("Role", role), session, world, at), seconds))
