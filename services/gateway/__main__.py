"""python -m services.gateway --config FILE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.gateway.config import GatewayConfig
from services.gateway.server import servicers
from worldkv.service import start


def main(
    config: Annotated[Path | None, typer.Option(help="TOML; every key is in services/gateway/gateway.toml")] = None,
) -> None:
    """Serve one gateway until SIGTERM. Settings: WORLDKV_GATEWAY_... over the file over defaults."""
    start("gateway", GatewayConfig, config, servicers)


if __name__ == "__main__":
    typer.run(main)
