"""python -m services.kvstore --config FILE"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.kvstore.config import KVStoreConfig
from services.kvstore.server import servicers
from worldkv.config import load
from worldkv.errors import InvalidConfig, Unavailable
from worldkv.service import run

PREFIX = "WORLDKV_KVSTORE_"


def main(
    config: Annotated[Path | None, typer.Option(help="TOML; every key is in services/kvstore/kvstore.toml")] = None,
) -> None:
    """Serve one shard of the KV store until SIGTERM. Settings: WORLDKV_KVSTORE_... over the file over defaults."""
    try:
        settings = load(KVStoreConfig, PREFIX, config, os.environ)
        run("kvstore", settings.service, servicers(settings))
    except (InvalidConfig, Unavailable) as error:
        print(f"kvstore: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
