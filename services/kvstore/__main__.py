"""python -m services.kvstore --config FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.kvstore.config import KVStoreConfig
from services.kvstore.server import servicers
from worldkv.service import start


def main(
    config: Annotated[Path | None, typer.Option(help="TOML; every key is in services/kvstore/kvstore.toml")] = None,
) -> None:
    """Serve one shard of the KV store until SIGTERM. Settings: WORLDKV_KVSTORE_... over the file over defaults."""
    start("kvstore", KVStoreConfig, config, servicers)


if __name__ == "__main__":
    typer.run(main)
