"""Looking at models from the command line: `worldkv model check`. What needs libraries is imported when it is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldkv.admin_rows import AsJson, Row, show
from worldkv.errors import InvalidInput, WorldKVError

if TYPE_CHECKING:
    from services.generator.adapters.wan.checking import Report

ANY = "wan"
"""Whatever is there."""

model = typer.Typer(help="Published models that a generator can run.", no_args_is_help=True)


@model.callback()
def callback() -> None:
    """Published models that a generator can run."""


@model.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder, or file, of a published model.")],
    name: Annotated[
        str, typer.Option("--model", help="Ask about this one, without it: about that of --config, or all there are.")
    ] = "",
    part: Annotated[
        list[Path] | None, typer.Option(help="Folder or file with further parts: VAE, encoders; several times.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML of the generator that is to run it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a folder holds, whether it will run, and what it takes; no weights are read."""
    name, report = _report(path, name, tuple(part or ()), config)
    parts, verdicts = _parts(report), _verdicts(report)
    show(parts, as_json)
    if verdicts:
        show(verdicts, as_json)
    if not any(row["runs"] for row in verdicts):
        whys = [str(row["why"]) for row in verdicts] or [str(row["about"]) for row in parts if row["about"]]
        wanted = "model" if name == ANY else name
        raise WorldKVError(f"{path} holds no {wanted} that will run: {'; '.join(whys) or 'no transformer is there'}")


def _report(path: Path, name: str, parts: tuple[Path, ...], config: Path | None) -> tuple[str, Report]:
    """Which model is asked about, and what there is."""
    from dataclasses import replace

    from worldkv.config import load

    try:
        from services.generator.adapters.wan.checking import check as checked
        from services.generator.adapters.wan.devices import missing
        from services.generator.adapters.wan.variants import VARIANTS
        from services.generator.config import GeneratorConfig
    except ModuleNotFoundError as error:
        raise WorldKVError(f"{error.name} is not installed; this command needs worldkv[wan]") from error
    if lost := missing():
        raise WorldKVError(lost)
    if name not in ("", ANY, *VARIANTS):
        raise InvalidInput(f"--model {name}: there are {ANY}, {', '.join(VARIANTS)}")
    told = load(GeneratorConfig, "WORLDKV_GENERATOR_", config, os.environ)
    name = name or (told.model if told.model in VARIANTS else ANY)
    settings = replace(told.wan, parts=told.wan.parts + parts)
    if absent := [str(each) for each in (path, *settings.parts) if not each.exists()]:
        raise InvalidInput(f"there is nothing at {', '.join(absent)}")
    return name, checked(path, name, settings)


def _parts(report: Report) -> list[Row]:
    return [
        {
            "part": each.kind,
            "path": str(each.path),
            "disk_bytes": each.disk_bytes,
            "parameters": each.parameters or None,
            "about": report.about(each),
        }
        for each in report.parts
    ]


def _verdicts(report: Report) -> list[Row]:
    return [
        {
            "model": each.variant.name,
            "transformer": str(each.transformer.path),
            "runs": not each.why,
            "why": each.why,
            "fits": each.fits,
            "grid": each.grid and list(each.grid),
            "device_bytes": each.cost and each.cost.device,
            "encoder_bytes": each.cost and each.cost.encoder,
            "chunk_bytes": each.cost and each.cost.chunk,
            "frame_bytes": each.cost and each.cost.frame,
            "state_bytes": each.cost and each.cost.state,
            "drawing_bytes": each.cost and each.cost.drawing,
        }
        for each in report.verdicts
    ]
