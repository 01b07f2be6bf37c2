"""Sizing from the command line: `worldkv plan`. What needs libraries is imported when it is run."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worldkv.admin_rows import AsJson, Row, show
from worldkv.errors import InvalidInput, OverBudget

if TYPE_CHECKING:
    from worldkv.plan import Figure

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGTP]?)(i?)B?", re.IGNORECASE)
_POWER = {prefix: power for power, prefix in enumerate(("", "k", "m", "g", "t", "p"))}


def _models(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from worldkv.plan import SHAPES

    return [name for name in SHAPES if name.startswith(incomplete)]


def plan(
    model: Annotated[
        str, typer.Option(help="Which; one that is not known names all there are.", autocompletion=_models)
    ] = "pocket",
    sessions: Annotated[int, typer.Option(help="That walk at the same time.")] = 1,
    minutes: Annotated[float, typer.Option(help="That each walks; all of it is remembered.")] = 10.0,
    keep: Annotated[float, typer.Option(help="Share of tokens kept of every frame but a chunk's first.")] = 1.0,
    codec: Annotated[str, typer.Option(help="Of keys and values; without it: the model's default.")] = "",
    budget: Annotated[str, typer.Option(help="Bytes of keys and values a world may keep: 50GB. 0: no limit.")] = "0",
    no_redis: Annotated[bool, typer.Option("--no-redis", help="Worlds in RAM alone.")] = False,
    in_ram: Annotated[float, typer.Option(help="Share of keys and values in shards' RAM, the rest in Redis.")] = 1.0,
    delta: Annotated[float, typer.Option(help="Recalled over fetched chunks.")] = 2.7,
    waste: Annotated[float, typer.Option(help="Share of what is fetched that is never used.")] = 0.23,
    hot: Annotated[int | None, typer.Option(help="Chunks at hand; without it: twice the recalled ones.")] = None,
    at_hand: Annotated[str, typer.Option(help="Where these are: device, the GPU, or host.")] = "device",
    gpu_memory: Annotated[str, typer.Option(help="Of one GPU.")] = "80GiB",
    step: Annotated[float, typer.Option(help="Seconds of a GPU for one session's chunk; 0: memory alone counts.")] = 0,
    shard_memory: Annotated[str, typer.Option(help="RAM of one shard.")] = "256GiB",
    as_json: AsJson = False,
) -> None:
    """Say what RAM, Redis, network and GPUs so many walks take."""
    from worldkv.plan import Workload, shape
    from worldkv.plan import plan as planned

    load = Workload(
        model=shape(model),
        sessions=sessions,
        minutes=minutes,
        keep=keep,
        codec=codec,
        budget_bytes=size_of(budget, "--budget"),
        redis=not no_redis,
        in_ram=in_ram,
        delta=delta,
        waste=waste,
        hot_chunks=hot,
        at_hand=at_hand,
        gpu_bytes=size_of(gpu_memory, "--gpu-memory"),
        step_seconds=step,
        shard_bytes=size_of(shard_memory, "--shard-memory"),
    )
    figures = planned(load)
    show([asdict(each) if as_json else _row(each) for each in figures], as_json)
    cannot = next((each for each in figures if each.unit == "GPUs" and each.total is None), None)
    if cannot is not None:
        raise OverBudget(f"no GPU of {gpu_memory} serves a session: {cannot.how}")


def size_of(text: str, option: str) -> int:
    """Bytes of a text such as 80GiB, 1.5TB or 4096. Raises InvalidInput naming the option."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{option} {text[:80]!r}: expected bytes, such as 80GiB, 1.5TB or 4096")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWER[prefix.lower()])


def _row(each: Figure) -> Row:
    """For people."""
    return {
        "part": each.part,
        "what": each.what,
        "a session": _said(each.each, each.unit),
        "in all": _said(each.total, each.unit),
        "how": each.how,
    }


def _said(value: float | None, unit: str) -> str:
    from rich.filesize import decimal

    if value is None:
        return "-"
    if unit.startswith("bytes"):
        return decimal(int(value)) + unit.removeprefix("bytes")
    return f"{value:,.2f} {unit}" if isinstance(value, float) else f"{value:,}"
