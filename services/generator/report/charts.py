"""Charts as inline SVG: they take the page's type and follow its dark or light colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import StringIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from services.generator.report.comparison import MODES, Comparison, fps, generated
from services.generator.report.look import MODE_NAMES

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
LINES = {"window": "#e07a3f", "full": "#4490ee", "worldkv": "#14a878"}
"""Colours that read on white and on black."""
REVISIT = "#d99a1c"


def fps_chart(c: Comparison) -> str:
    """Latent frames a second by generated chunk."""
    figure, axes = _figure("chunk of the walk", "latent frames a second")
    for walk in (c.by_mode[m] for m in MODES if m in c.by_mode):
        _line(axes, walk.mode, [log.index for log in generated(walk)], _smooth(fps(walk)))
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def bytes_chart(c: Comparison) -> str:
    """Bytes of keys and values kept, by chunk."""
    figure, axes = _figure("chunk of the walk", "keys and values kept, MB")
    for walk in (c.by_mode[m] for m in MODES if m in c.by_mode):
        _line(axes, walk.mode, [log.index for log in walk.chunks], [log.kv_bytes / 1e6 for log in walk.chunks])
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def psnr_chart(c: Comparison) -> str:
    """PSNR against the truth by generated frame; frames that look again at what was shown stand on a bar."""
    figure, axes = _figure("latent frame", "PSNR against the truth, dB", wide=True)
    frames = range(c.shown, c.frames)
    for mode in (m for m in MODES if m in c.by_mode):
        _line(axes, mode, list(frames), [float(v) for v in c.psnr[mode][c.shown :]])
    foot = axes.get_ylim()[0]
    again = np.isin(frames, list(c.revisits))
    axes.fill_between(frames, foot, foot + 0.35, where=again.tolist(), color=REVISIT, linewidth=0, step="mid")
    axes.set_ylim(bottom=foot)
    return _svg(figure, axes)


def _figure(x: str, y: str, wide: bool = False) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, 3.0) if wide else (5.2, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=INK, alpha=0.12)
    return figure, axes


def _line(axes: Axes, mode: str, x: Sequence[int], y: Sequence[float]) -> None:
    axes.plot(x, y, color=LINES[mode], linewidth=2, label=MODE_NAMES[mode])


def _smooth(v: NDArray[np.float64], width: int = 5) -> list[float]:
    """Running median, so that one hiccup of the machine is not read as a trend."""
    half = width // 2
    return [float(np.median(v[max(0, i - half) : i + half + 1])) for i in range(len(v))]


def _svg(figure: Figure, axes: Axes) -> str:
    """The figure as an <svg> element that brings nothing of its own: no type, no ground, no links."""
    for spine in axes.spines.values():
        spine.set_edgecolor(INK)
    axes.tick_params(colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    out = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "worldkv"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _bare(out.getvalue())


def _bare(text: str) -> str:
    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"^.*?(?=<svg)", ""),  # prolog and document type
        (r"<metadata>.*?</metadata>|<style.*?</style>", ""),
        (r" xmlns(:\w+)?=\"[^\"]*\"", ""),
        (r"<svg ([^>]*?)width=\"[^\"]*\" ?", r"<svg \1"),
        (r"<svg ([^>]*?)height=\"[^\"]*\" ?", r"<svg \1"),
        (r"<g id=\"patch_1\">.*?</g>", ""),  # the figure's ground
        (r"<g id=\"patch_2\">.*?</g>", ""),  # the axes' ground
        (INK, "currentColor"),
        (r" font-family: [^;\"]*;", ""),
        (r"\n\s*", "\n"),
    ]
    for pattern, by in rules:
        text = re.sub(pattern, by, text, flags=re.DOTALL)
    return text.strip()
