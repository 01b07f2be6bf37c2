"""Measurements with options of their own: `worldkv bench serve` and `worldkv bench shape`.

What needs libraries is imported when it is run.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from worldkv.admin_options import Authority, Certificate, Key, Tenant, Token, caller_of
from worldkv.admin_rows import AsJson, working
from worldkv.errors import InvalidInput

if TYPE_CHECKING:
    from benchmarks.serve.tally import Summary
    from benchmarks.shape.walk import Row

serving, shaping = typer.Typer(), typer.Typer()
PARTS = {"serve": serving, "shape": shaping}
"""What follows `worldkv bench` and is no id, by name: commands with options of their own."""


class Bench(TyperCommand):
    """`worldkv bench IDS`, and the commands that go by `bench` and a name."""

    @property
    def commands(self) -> dict[str, Any]:
        """Those, by name."""
        return {name: typer.main.get_command(part) for name, part in PARTS.items()}

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args and args[0] in PARTS:
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@serving.command()
def serve(
    rates: Annotated[
        str, typer.Option(help="Sessions that arrive a second, a load each, one after the other.")
    ] = "0.1",
    seconds: Annotated[float, typer.Option(min=1, help="That are measured at each rate.")] = 60,
    settle: Annotated[float, typer.Option(min=0, help="In which sessions come before anything is measured.")] = 20,
    stay: Annotated[float, typer.Option(min=1, help="Mean seconds that a session plays.")] = 20,
    mix: Annotated[
        str, typer.Option(help="Kinds of walk, as turns=2,wander=1: turns, rounds, errands, tours, wander.")
    ] = "",
    lead: Annotated[int, typer.Option(min=1, help="Chunks by which moves run ahead of what is shown.")] = 2,
    warm: Annotated[int, typer.Option(min=0, help="Chunks of a session that fill its window, and do not count.")] = 8,
    seed: Annotated[int, typer.Option(help="Of arrivals, walks and worlds.")] = 0,
    address: Annotated[
        str | None, typer.Option(help="host:port of a running service; without it: one is started.")
    ] = None,
    model: Annotated[str, typer.Option(help="Of a service that is started.")] = "pocket",
    generators: Annotated[int, typer.Option(min=1, help="Of a service that is started.")] = 1,
    shards: Annotated[int, typer.Option(min=1, help="Of a service that is started.")] = 2,
    tenant: Tenant = "default",
    token: Token = "",
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures and a plot of them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put load on a service: sessions arrive at random, walk, watch and leave; say what they saw."""
    from rich.console import Console

    from benchmarks.serve.arrivals import parse_mix
    from benchmarks.serve.report import line, table
    from benchmarks.serve.run import Started, mix_for, run
    from benchmarks.serve.visiting import Plan
    from worldkv.client import WalkClient

    chosen = parse_mix(mix) if mix else mix_for(None if address else model)
    config = caller_of(tenant, authority, certificate, key, token)

    def told(each: Summary) -> None:
        if as_json:
            print(line(each), flush=True)

    found = run(
        _rates(rates),
        Plan(seconds, settle, stay, chosen, lead, warm, seed),
        out,
        partial(WalkClient, config=config),
        address,
        Started(model, generators, shards),
        told,
    )
    if not as_json:
        Console().print(table(found))


@shaping.command()
def shape(
    model: Annotated[
        str, typer.Option(help="A Wan model, by the name in docs/models.md.")
    ] = "matrix-game-2.0-universal",
    modes: Annotated[str, typer.Option(help="What stands in the window, a walk each.")] = "window,full,worldkv",
    chunks: Annotated[int, typer.Option(help="Of each walk.")] = 90,
    layers: Annotated[int, typer.Option(help="Of the transformer, at most the published ones; 0: all.")] = 0,
    grid: Annotated[
        str, typer.Option(help="Rows and columns of latent cells, as 44x80; without it: as published.")
    ] = "",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of weights, keys and values: bfloat16, float16 or float32.")] = "bfloat16",
    bank: Annotated[
        str, typer.Option(help="Where worldkv keeps chunks: host, in a store started for it, or device, uncoded.")
    ] = "host",
    keep: Annotated[float, typer.Option(help="Share of tokens kept of every frame but a chunk's first.")] = 0.25,
    codec: Annotated[str, typer.Option(help="Of chunks in the store.")] = "raw",
    recalled: Annotated[
        int | None, typer.Option(help="Frames' worth of tokens that are recalled; without it: three chunks'.")
    ] = None,
    placement: Annotated[str, typer.Option(help="In time, of worldkv's window: rebased or original.")] = "rebased",
    decode: Annotated[bool, typer.Option("--decode", help="Make pictures, by a VAE of the published shape.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for figures, a table and a plot of them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Walk with a real model's shape and random weights: speed and memory, chunk by chunk, beside the paper's."""
    from benchmarks.shape import report
    from benchmarks.shape.plan import Plan
    from benchmarks.shape.run import about, run

    plan = Plan(
        model,
        cast(Any, tuple(each.strip() for each in modes.split(","))),  # names are looked at by the plan
        chunks,
        layers,
        _grid(grid),
        device,
        dtype,
        cast(Any, bank),
        keep,
        codec,
        recalled,
        cast(Any, placement),
        decode,
    )

    def told(mode: str, row: Row) -> None:
        if as_json:
            print(json.dumps({"mode": mode, **row.flat()}), flush=True)

    with working(f"{model}: {modes}, {chunks} chunks each"):
        found = run(plan, out, told)
    if not as_json:
        print(report.markdown(about(plan), found), end="")


def _grid(words: str) -> tuple[int, int] | None:
    if not words:
        return None
    try:
        rows, columns = map(int, words.split("x"))
    except ValueError as error:
        raise InvalidInput(f"--grid {words}: expected rows and columns, as 44x80") from error
    return rows, columns


def _rates(words: str) -> list[float]:
    try:
        return [float(each) for each in words.split(",")]
    except ValueError as error:
        raise InvalidInput(f"--rates {words}: expected numbers with commas between them") from error
