"""What was measured: results.json, a Markdown table with the paper's beside it, and a plot of speed and memory."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.shape.paper import CURVE, LINGBOT, reported
from benchmarks.shape.walk import PICTURES, Row, Walked
from services.generator.step import Seconds

GIB = 1 << 30
SHOWN = (1, 5, *range(10, 1000, 10))
"""Chunks that have a line of their own; so has the last one."""
SPLIT = (*Seconds._fields, "behind")
"""What the seconds of a chunk were spent for."""


def write(about: dict[str, Any], found: Sequence[Walked], out: Path) -> None:
    """Leave results.json, results.md and results.png in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    walks = [{"mode": each.mode, "trouble": each.trouble, "rows": [row.flat() for row in each.rows]} for each in found]
    (out / "results.json").write_text(json.dumps({**about, "walks": walks}, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(about, found), encoding="utf-8")
    plot(about, found, out / "results.png")


def fps(row: Row, frames: int) -> float:
    """Pictures a second at a chunk of so many latent frames."""
    return PICTURES * frames / row.seconds


def settled(walked: Walked) -> tuple[Row, ...]:
    """The second half of a walk: its window is full by then, and what it recalls has been seen before."""
    return walked.rows[len(walked.rows) // 2 :]


def markdown(about: dict[str, Any], found: Sequence[Walked]) -> str:
    """Everything as a page of Markdown."""
    return "\n".join(_page(about, found)) + "\n"


def _page(about: dict[str, Any], found: Sequence[Walked]) -> Iterator[str]:
    frames, (rows, columns) = about["frames"], about["grid"]
    yield f"# {about['model']} with random weights\n"
    yield f"`{about['command']}`\n"
    yield (
        f"{about['layers']} of {about['of_layers']} layers, {rows} × {columns} latent cells, {about['tokens']} tokens "
        f"and {about['chunk_bytes'] / GIB:.3f} GiB of keys and values a chunk, {about['dtype']}; {about['hardware']}, "
        f"torch {about['torch']}. Pictures are counted as {PICTURES} a latent frame, "
        f"{'decoded' if about['decode'] else 'without the time that decoding them takes'}.\n"
    )
    if walked := [each for each in found if each.rows]:
        yield "Pictures a second:\n"
        yield from _by_chunk(walked, lambda row: f"{fps(row, frames):.3g}")
        yield "\nGiB of keys and values for the window / at hand beside it / stored, and of all the device holds:\n"
        yield from _by_chunk(walked, _memory)
        yield from _split(walked, frames)
        yield from _beside_paper(about["model"], walked, frames)
    for each in found:
        if each.trouble:
            yield f"\n`{each.mode}`: {each.trouble}"


def _split(found: Sequence[Walked], frames: int) -> Iterator[str]:
    """Where the time of a chunk went."""
    yield "\nSeconds a chunk, mean over the second half of each walk; speed at its end; what is put into the window.\n"
    yield f"| | {' | '.join(SPLIT)} | pictures a second | placed, GiB |"
    yield "| --- |" + " ---: |" * (len(SPLIT) + 2)
    for each in found:
        mean = [statistics.fmean(row.flat()[part] for row in settled(each)) for part in SPLIT]
        placed = statistics.fmean(row.placed for row in settled(each)) / GIB
        yield f"| {each.mode} | {' | '.join(f'{x:.4f}' for x in mean)} | {_speed(each, frames):.3g} | {placed:.3g} |"


def _by_chunk(found: Sequence[Walked], cell: Callable[[Row], str]) -> Iterator[str]:
    """A table of all modes, with a line for some of the chunks."""
    yield f"| chunk | {' | '.join(each.mode for each in found)} |"
    yield "| ---: |" + " ---: |" * len(found)
    last = max(len(each.rows) for each in found)
    for chunk in sorted({*(each for each in SHOWN if each < last), last}):
        cells = [cell(each.rows[chunk - 1]) if chunk <= len(each.rows) else "" for each in found]
        yield f"| {chunk} | {' | '.join(cells)} |"


def _memory(row: Row) -> str:
    held = row.held
    sizes = (held.window, held.hot + held.queued, held.stored, row.device)
    return " / ".join(f"{size / GIB:.3g}" for size in sizes)


def _beside_paper(model: str, found: Sequence[Walked], frames: int) -> Iterator[str]:
    """What is reported of the model; ratios are what can be compared between machines."""
    known = reported(model)
    if known is None:
        return
    name, paper = known
    base = next((_speed(each, frames) for each in found if each.mode == "full"), None)
    yield f"\nThe paper's {name} on four H200, and what was measured here:\n"
    yield "| | paper: pictures a second | over full | PSNR, dB | here: pictures a second | over full |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for mode, speed in paper.fps.items():
        own = next((_speed(each, frames) for each in found if each.mode == mode), None)
        here = "" if own is None else f"{own:.3g}"
        ratio = "" if own is None or base is None else f"{own / base:.2f}"
        yield f"| {mode} | {speed} | {speed / paper.fps['full']:.2f} | {paper.psnr[mode]:.2f} | {here} | {ratio} |"
    if paper is LINGBOT:
        curves = (
            f"{mode} {', '.join(f'{x} at {chunk}' for chunk, x in curve.items())}" for mode, curve in CURVE.items()
        )
        yield f"\nIts project page by chunk: {'; '.join(curves)}."


def _speed(walked: Walked, frames: int) -> float:
    """Pictures a second at the end of a walk: the median of its second half in a bounded window, its last chunk in a
    growing one."""
    rows = walked.rows[-3:] if walked.mode == "full" else settled(walked)
    return statistics.median(fps(row, frames) for row in rows)


def plot(about: dict[str, Any], found: Sequence[Walked], path: Path) -> None:
    """Write a picture of speed, and of memory by tier, against the number of the chunk."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 7))
    for each in found:
        chunks = [row.chunk for row in each.rows]
        above.plot(chunks, [fps(row, about["frames"]) for row in each.rows], label=each.mode)
        line = below.plot(chunks, [(sum(row.held) - row.held.stored) / GIB for row in each.rows], label=each.mode)
        if any(row.held.stored for row in each.rows):
            stored, color = [row.held.stored / GIB for row in each.rows], line[0].get_color()
            below.plot(chunks, stored, linestyle="--", color=color, label=f"{each.mode}, in the store")
    if about["model"].startswith("lingbot-world-fast") and about["layers"] == about["of_layers"]:
        for mode, curve in CURVE.items():
            above.plot([*curve], [*curve.values()], linestyle=":", color="gray", label=f"{mode}, project page, 4 H200")
    above.set_ylabel("pictures a second")
    above.set_ylim(bottom=0)
    below.set_ylabel("keys and values, GiB")
    below.set_ylim(bottom=0)
    below.set_xlabel("chunk")
    for axes in (above, below):
        axes.legend()
    figure.suptitle(f"{about['model']}, {about['layers']} of {about['of_layers']} layers")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
