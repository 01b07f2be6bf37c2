"""python -m services.retriever --config FILE"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.retriever.config import RetrieverConfig
from services.retriever.server import servicers
from worldkv.config import load
from worldkv.errors import InvalidConfig, Unavailable
from worldkv.service import run

PREFIX = "WORLDKV_RETRIEVER_"


def main(
    config: Annotated[Path | None, typer.Option(help="TOML; every key is in services/retriever/retriever.toml")] = None,
) -> None:
    """Serve one replica of the index until SIGTERM. Settings: WORLDKV_RETRIEVER_... over the file over defaults."""
    try:
        settings = load(RetrieverConfig, PREFIX, config, os.environ)
        run("retriever", settings.service, servicers(settings))
    except (InvalidConfig, Unavailable) as error:
        print(f"retriever: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
