"""Colours, type and small drawing helpers that all pictures share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from services.generator.recording import Pictures

Anchor = Literal["lt", "mt", "rt", "lm", "mm", "rm"]

GROUND = "#0e1117"
PANEL = "#161b24"
LINE = "#2b3342"
FAINT = "#1d2430"
KEPT = "#3a4458"
TEXT = "#e8ebf1"
MUTED = "#8d96a8"
SHOWN = "#8d96a8"
GENERATED = "#b48cf2"
RECALLED = "#ffc44d"
WINDOW = "#4f9cf9"

MODE_COLOURS = {"truth": TEXT, "window": "#f2854b", "full": "#5ba4fa", "worldkv": "#2fc99a"}
"""One colour a mode, told apart by colour-blind eyes too."""
MODE_NAMES = {"truth": "truth", "window": "window only", "full": "full KV", "worldkv": "WorldKV"}
MODE_NOTES = {
    "truth": "the true renderer",
    "window": "a sliding window: forgets",
    "full": "every chunk kept: grows",
    "worldkv": "window + recalled chunks",
}


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The typeface that matplotlib brings along, so that pictures look alike on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int = 14,
    colour: str = TEXT,
    bold: bool = False,
    anchor: Anchor = "lt",
) -> float:
    """Write a line of text; returns its width, pixels."""
    face = font(size, bold)
    draw.text(at, text, fill=colour, font=face, anchor=anchor)
    return face.getlength(text)


def badge(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: str, size: int = 12) -> float:
    """A filled label with its left end at `at` and centred on its height; returns its width, pixels."""
    (x, y), width, half = at, badge_width(text, size), size * 0.95
    draw.rounded_rectangle((x, y - half, x + width, y + half), radius=half, fill=colour)
    draw.text((x + width / 2, y), text, fill=GROUND, font=font(size, bold=True), anchor="mm")
    return width


def badge_width(text: str, size: int = 12) -> float:
    """Pixels that a badge takes."""
    return font(size, bold=True).getlength(text) + 1.4 * size


def enlarge(picture: Pictures, width: int) -> Image.Image:
    """A small picture [height, width, 3] at a larger width, its pixels kept square and sharp."""
    small = Image.fromarray(picture)
    times = -(-width // small.width)
    blocks = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
    return blocks.resize((width, round(small.height * width / small.width)), Image.Resampling.BOX)


def grade(psnr: float) -> str:
    """A colour that says how near the truth a picture is: red below 16 dB, green above 20."""
    return "#ff7b6b" if psnr < 16 else "#ffc44d" if psnr < 20 else "#57d9a3"
