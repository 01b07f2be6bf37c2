"""What a service is told, from the command line: `worldkv config show`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from worldkv.admin_rows import AsJson, Row, show
from worldkv.errors import WorldKVError

Service = Literal["kvstore", "retriever", "generator", "gateway", "cluster"]
SETTINGS = {
    "kvstore": "services.kvstore.config:KVStoreConfig",
    "retriever": "services.retriever.config:RetrieverConfig",
    "generator": "services.generator.config:GeneratorConfig",
    "gateway": "services.gateway.config:GatewayConfig",
    "cluster": "services.cluster.topology:TopologyConfig",
}

config = typer.Typer(help="What services are told.", no_args_is_help=True)


@config.callback()
def callback() -> None:
    """What services are told."""


@config.command("show")
def show_(
    service: Annotated[Service, typer.Argument(help="Whose settings.")],
    config: Annotated[Path | None, typer.Option(help="TOML, as the service is started with.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not left at its default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every setting of a service as it would start now, and where each comes from; secrets are not shown."""
    show([row for row in rows(service, config) if not changed or row["from"] != "default"], as_json)


def rows(service: Service, file: Path | None) -> list[Row]:
    """One a setting. Raises InvalidConfig in the words that the service would end with."""
    from worldkv.config import leaves, load, origins

    prefix = f"WORLDKV_{service.upper()}_"
    settings = leaves(load(_kind(service), prefix, file, os.environ))
    given = origins(prefix, file, os.environ)
    return [
        {"setting": name, "value": _shown(name, value), "from": given.get(name, "default")}
        for name, value in settings.items()
    ]


def _kind(service: Service) -> type[Any]:
    module, _, name = SETTINGS[service].partition(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        raise WorldKVError(f"{error.name} is not installed; this command needs worldkv[{service}]") from error


def _shown(name: str, value: Any) -> Any:
    """A value for people and programs; `...` for a text that may be a secret. A file of secrets is only a name."""
    from worldkv.config import secret

    if isinstance(value, str) and value and secret(name.rpartition(".")[2]):
        return "..."
    if isinstance(value, tuple):
        return [_shown(name, each) for each in value]
    return str(value) if isinstance(value, Path) else value
