"""What was measured, for people and for programs: a table, JSON lines, and a plot of latency against arrivals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.serve.tally import SPLIT, Summary

MB = 1e6


def line(each: Summary) -> str:
    """A rate as one line of JSON."""
    return json.dumps(asdict(each), allow_nan=False)


def table(found: Sequence[Summary]) -> Table:
    """All rates, a column each."""
    shown = Table("", *(f"{each.rate:g} / s" for each in found), title="Sessions that arrive", box=None)
    rows = [_rows(each) for each in found]
    for name in rows[0] if rows else ():
        shown.add_row(name, *(row[name] for row in rows))
    return shown


def plot(found: Sequence[Summary], playing: float, path: Path) -> None:
    """Write a picture of latencies, and of what viewers had of it, against the rate of arrivals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 7), height_ratios=(3, 2))
    for index, name in enumerate(("p50", "p95", "p99")):
        points = [(each.rate, each.latency[index]) for each in found if each.latency]
        above.plot(*zip(*points, strict=True), marker="o", label=f"move to chunk, {name}")
    points = [(each.rate, each.action[1]) for each in found if each.action]
    above.plot(*zip(*points, strict=True), marker="s", linestyle="--", label="move to picture, p95")
    above.axhline(playing, color="gray", linewidth=1, label="a chunk plays")
    above.set_ylabel("seconds")
    above.set_ylim(bottom=0)
    above.legend()
    for name, values in (
        ("chunks in time", [(each.rate, each.attained) for each in found if each.attained is not None]),
        ("sessions let in", [(each.rate, 1 - sum(each.refused.values()) / max(each.sessions, 1)) for each in found]),
        ("chunks at hand", [(each.rate, each.hit) for each in found if each.hit is not None]),
    ):
        below.plot(*zip(*values, strict=True), marker="o", label=name)
    below.set_ylim(-0.02, 1.02)
    below.set_ylabel("share")
    below.set_xlabel("sessions that arrive a second")
    below.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def write(found: Sequence[Summary], playing: float, about: dict[str, Any], out: Path) -> None:
    """Leave everything in a folder: load.jsonl, load.json with what was run, and load.png."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "load.jsonl").write_text("".join(line(each) + "\n" for each in found), encoding="utf-8")
    (out / "load.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    if any(each.latency for each in found):
        plot(found, playing, out / "load.png")


def _rows(each: Summary) -> dict[str, str]:
    return {
        "sessions": f"{each.sessions}",
        "at a time": f"{each.walking:.1f}",
        "refused": _counted(each.refused),
        "failed": _counted(each.failed),
        "chunks measured": f"{each.chunks}",
        "first chunk p50 / p95 / p99, s": _quantiles(each.first),
        "move to chunk": _quantiles(each.latency),
        "move to picture": _quantiles(each.action),
        "in time": _share(each.attained),
        "stalled, s a minute": "" if each.stalled is None else f"{each.stalled:.2f}",
        **{f"{part}, ms": f"{1e3 * each.split[part]:.1f}" for part in SPLIT},
        "at hand": _share(each.hit),
        "late": _share(each.late),
        "slots empty": _share(each.abstained),
        **{f"{tier}, MB": f"{nbytes / MB:.1f}" for tier, nbytes in each.held.items()},
        "the load's own delay p99, ms": f"{1e3 * each.lag:.1f}",
    }


def _quantiles(values: tuple[float, ...] | None) -> str:
    return " / ".join(f"{each:.2f}" for each in values) if values else ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "0"
