"""python -m services.generator --config FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.generator.config import GeneratorConfig
from services.generator.server import servicers
from worldkv.service import start


def main(
    config: Annotated[Path | None, typer.Option(help="TOML; every key is in services/generator/generator.toml")] = None,
) -> None:
    """Serve one generator until SIGTERM. Settings: WORLDKV_GENERATOR_... over the file over defaults."""
    start("generator", GeneratorConfig, config, servicers)


if __name__ == "__main__":
    typer.run(main)
