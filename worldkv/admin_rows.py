"""What commands print: rows as a table for people, or as JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from worldkv.store import Store

Row = dict[str, Any]
NUMBERS = {int, float, type(None)}
WIDE = 240
"""Columns of a table that goes to a file or another program."""
AsJson = Annotated[bool, typer.Option("--json", help="One JSON line per row instead of a table.")]


def show(rows: Iterable[Row], as_json: bool) -> None:
    """Print rows as a table, or one JSON line each."""
    rows = list(rows)
    if as_json:
        for row in rows:
            print(json.dumps(row, allow_nan=False, ensure_ascii=False), flush=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print("there are none", file=sys.stderr)
    else:
        table = Table(box=None)
        for name in rows[0]:
            kinds, title = {type(row[name]) for row in rows}, name.removesuffix("_bytes").replace("_", " ")
            table.add_column(title, justify="right" if kinds <= NUMBERS else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_said(name, value)) for name, value in row.items()))
        Console(width=None if sys.stdout.isatty() else WIDE).print(table)


@contextmanager
def working(words: str) -> Iterator[None]:
    """Around work that takes its time: says so on a terminal, on stderr, and leaves nothing behind."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(words)):
        yield


@contextmanager
def counted(store: Store, words: str) -> Iterator[Store]:
    """The store, and on a terminal, on stderr, how many parts and bytes go through it."""
    if not sys.stderr.isatty():
        yield store
        return
    from rich.console import Console
    from rich.filesize import decimal
    from rich.live import Live
    from rich.text import Text

    from worldkv.store_wrappers import ObservedStore

    observed, began = ObservedStore(store), monotonic()

    def line() -> Text:
        counts, seconds = observed.counters, max(monotonic() - began, 1e-3)
        parts, nbytes = counts.hits + counts.puts, counts.hit_bytes + counts.put_bytes
        return Text(f"{words}: {parts} parts, {decimal(nbytes)}, {decimal(int(nbytes / seconds))}/s, {seconds:.0f} s")

    with Live(get_renderable=line, console=Console(stderr=True), transient=True, refresh_per_second=4):
        yield observed


def _said(name: str, value: Any) -> str:
    from rich.filesize import decimal

    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{count} {why}" for why, count in value.items()) or "-"
    return decimal(value) if name.endswith("_bytes") else str(value)
