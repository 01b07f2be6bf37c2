"""Contact sheets: a walk as rows of pictures, what was shown on the left, what was looked at again on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from services.generator.report import look
from services.generator.report.comparison import MODES, Comparison
from services.generator.report.files import replacing
from services.generator.report.picture import TITLES

WIDTH = 1280
EDGE = 24
LABELS = 128
"""Width of the names of the rows, pixels."""
GUTTER = 8
GAP = 40
"""Between the shown and the generated part, pixels."""
SHOWN_COLUMNS, LATER_COLUMNS = 3, 5
COLUMNS = SHOWN_COLUMNS + LATER_COLUMNS
CELL = (WIDTH - 2 * EDGE - LABELS - GAP - (COLUMNS - 2) * GUTTER) // COLUMNS
HEAD, FOOT = 86, 14


def pick(comparison: Comparison) -> tuple[list[int], list[int]]:
    """Frames of the sheet, spread evenly: shown ones, and revisits (generated ones where nothing is revisited)."""
    later = list(comparison.revisits) or list(range(comparison.shown, comparison.frames))
    spread = np.linspace(0, len(later) - 1, min(LATER_COLUMNS, len(later))).round().astype(int)
    early = np.linspace(0, comparison.shown - 1, min(SHOWN_COLUMNS, comparison.shown)).round().astype(int)
    return [int(i) for i in early], [later[i] for i in spread]


def sheet(comparison: Comparison) -> Image.Image:
    """Rows truth, window, full, worldkv; PSNR against the truth under each picture that was looked at again."""
    c, (early, later) = comparison, pick(comparison)
    height = CELL * c.truth.shape[1] // c.truth.shape[2]
    rows = ["truth", *(m for m in MODES if m in c.by_mode)]
    canvas = Image.new("RGB", (WIDTH, HEAD + len(rows) * (height + GUTTER) + FOOT), look.GROUND)
    draw = ImageDraw.Draw(canvas)
    look.write(draw, (EDGE, 26), TITLES.get(c.name, c.name), 20, bold=True, anchor="lm")
    left = EDGE + LABELS
    columns = [left + i * (CELL + GUTTER) + (GAP - GUTTER if i >= len(early) else 0) for i in range(COLUMNS)]
    _heads(draw, columns, len(early), len(later), bool(c.revisits))
    for x, frame in zip(columns, early + later, strict=False):
        text = f"frame {frame + 1}"
        if frame in c.revisits:
            text += f" = {c.revisits[frame] + 1} again"
        look.write(draw, (x + CELL / 2, HEAD - 12), text, 11, look.MUTED, anchor="mm")
    for row, mode in enumerate(rows):
        y = HEAD + row * (height + GUTTER)
        _name(draw, y + height / 2, c, mode)
        pictures = c.truth if mode == "truth" else c.by_mode[mode].pictures
        for x, frame in zip(columns, early + later, strict=False):
            cell = look.enlarge(pictures[frame], CELL)
            if mode != "truth" and frame < c.shown:  # the same as the truth: told apart from what a mode drew
                cell = Image.blend(cell, Image.new("RGB", cell.size, look.GROUND), 0.45)
            canvas.paste(cell, (x, y))
            if mode != "truth" and frame in c.revisits:
                _mark(draw, (x, y, x + CELL, y + height), float(c.psnr[mode][frame]))
    return canvas


def _heads(draw: ImageDraw.ImageDraw, columns: Sequence[int], early: int, later: int, again: bool) -> None:
    """Which columns were shown and which were drawn by the model."""
    what = "drawn by the model, looking at the same places again" if again else "drawn by the model, never seen before"
    parts = (
        (columns[0], columns[early - 1], "shown by the true renderer", look.SHOWN),
        (columns[early], columns[early + later - 1], what, look.GENERATED),
    )
    for begin, end, text, colour in parts:
        draw.line((begin, HEAD - 24, end + CELL, HEAD - 24), fill=colour, width=2)
        look.write(draw, ((begin + end + CELL) / 2, HEAD - 36), text, 13, colour, bold=True, anchor="mm")


def _name(draw: ImageDraw.ImageDraw, y: float, c: Comparison, mode: str) -> None:
    """The name of a row, with its mean over the revisit frames."""
    look.write(draw, (EDGE, y - 9), look.MODE_NAMES[mode], 14, look.MODE_COLOURS[mode], bold=True, anchor="lm")
    if mode == "truth":
        look.write(draw, (EDGE, y + 9), "true renderer", 12, look.MUTED, anchor="lm")
    elif c.revisits:
        look.write(draw, (EDGE, y + 9), f"mean {c.scores[mode].truth_psnr:.1f} dB", 12, look.MUTED, anchor="lm")


def _mark(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], psnr: float) -> None:
    text, colour = f"{psnr:.1f}", look.grade(psnr)
    look.badge(draw, (box[2] - 5 - look.badge_width(text, 11), box[3] - 14), text, colour, 11)


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets of the same width, one below the other."""
    canvas = Image.new("RGB", (sheets[0].width, sum(s.height for s in sheets)), look.GROUND)
    y = 0
    for part in sheets:
        canvas.paste(part, (0, y))
        y += part.height
    return canvas


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG by rename."""
    with replacing(path) as unfinished:
        picture.save(unfinished, optimize=True)
