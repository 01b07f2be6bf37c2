"""What commands print: rows as a table for people, or as JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

Row = dict[str, Any]
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
        table = Table(*(name.removesuffix("_bytes").replace("_", " ") for name in rows[0]), box=None)
        for row in rows:
            table.add_row(*(Text(_said(name, value)) for name, value in row.items()))
        Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def _said(name: str, value: Any) -> str:
    from rich.filesize import decimal

    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{count} {why}" for why, count in value.items()) or "-"
    return decimal(value) if name.endswith("_bytes") else str(value)
