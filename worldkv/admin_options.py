"""Options that several commands have, the same everywhere: their names, variables and words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worldkv.client import WalkClientConfig

Authority = Annotated[
    Path | None, typer.Option(envvar="WORLDKV_AUTHORITY", help="PEM file that the other side is proven by.")
]
Certificate = Annotated[Path | None, typer.Option(envvar="WORLDKV_CERTIFICATE", help="PEM file, our own.")]
Key = Annotated[Path | None, typer.Option(envvar="WORLDKV_KEY", help="PEM file, its key.")]
Token = Annotated[str, typer.Option(envvar="WORLDKV_TOKEN", help="A token, or a file that holds one.")]
Tenant = Annotated[str, typer.Option(envvar="WORLDKV_TENANT", help="Whose worlds.")]
Deadline = Annotated[float, typer.Option(min=0.001, help="Seconds that one call may take.")]


def caller_of(
    tenant: str, authority: Path | None, certificate: Path | None, key: Path | None, token: str
) -> WalkClientConfig:
    """Who walks, by these options. Raises InvalidConfig for a certificate without its key."""
    from worldkv.client import WalkClientConfig
    from worldkv.rpc import TLS

    return WalkClientConfig(tenant=tenant, tls=TLS(certificate, key, authority), token=token)
