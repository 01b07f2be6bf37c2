"""python -m services.retriever --config FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.retriever.config import RetrieverConfig
from services.retriever.server import servicers
from worldkv.service import start


def main(
    config: Annotated[Path | None, typer.Option(help="TOML; every key is in services/retriever/retriever.toml")] = None,
) -> None:
    """Serve one replica of the index until SIGTERM. Settings: WORLDKV_RETRIEVER_... over the file over defaults."""
    start("retriever", RetrieverConfig, config, servicers)


if __name__ == "__main__":
    typer.run(main)
