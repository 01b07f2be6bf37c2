"""One frame of the film: four views of the same moment, the floor plan, and how memory is doing."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from services.generator.report import look
from services.generator.report.comparison import MODES, Comparison, fps
from services.generator.report.plan import Plan

WIDTH, HEIGHT = 1280, 720
EDGE = 20
GUTTER = 16
VIEW = (WIDTH - 2 * EDGE - 3 * GUTTER) // 4
"""Width of one view, pixels."""
TOP = 64
PLAN = 330
PSNR_RANGE = (8.0, 30.0)
"""dB at the foot and the head of the film's chart."""
TITLES = {
    "pan90": "Turn 90 degrees away, pause, turn back",
    "pan180": "Turn 180 degrees away, pause, turn back",
    "pan360": "Turn full circle, and back",
    "square": "Walk round a square, twice",
    "door": "Look round, go through a door, look round, come back",
    "wander": "Wander through the rooms, then all the way back",
    "wide": "A tour of three rooms or more, then back",
    "spins": "Five full turns, to and fro",
    "never returns": "A tour that never returns",
}
"""What happens in each named walk."""


class Film:
    """Draws the frames of a comparison. Its walks should be of all `MODES`; one that is missing stays blank."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        remembering = comparison.by_mode.get("worldkv", comparison.walks[-1])
        self.plan = Plan(remembering, PLAN)
        self._speed = {w.mode: fps(w) for w in comparison.walks}

    def draw(self, frame: int) -> Image.Image:
        """The picture [HEIGHT, WIDTH] at a latent frame."""
        canvas = Image.new("RGB", (WIDTH, HEIGHT), look.GROUND)
        draw = ImageDraw.Draw(canvas)
        self._head(draw, frame)
        bottom = self._views(canvas, draw, frame) + 14
        canvas.paste(self.plan.draw(frame), (EDGE, bottom))
        left = EDGE + PLAN + 2 * GUTTER
        self._legend(draw, left, bottom + 6)
        self._strip(draw, (left, bottom + 36, WIDTH - EDGE, bottom + 84), frame)
        self._chart(draw, (left, bottom + 118, WIDTH - EDGE, bottom + PLAN), frame)
        return canvas

    def _head(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        c = self.comparison
        look.write(draw, (EDGE, 30), TITLES.get(c.name, c.name), 22, bold=True, anchor="lm")
        shown = frame < c.shown
        text, colour = ("SHOWN", look.SHOWN) if shown else ("GENERATED", look.GENERATED)
        label = f"frame {frame + 1} of {c.frames}"
        seen = c.revisits.get(frame)
        if seen is not None:
            label += f"  ·  looks again at frame {seen + 1}"
        x = WIDTH - EDGE - look.font(14).getlength(label)
        look.write(draw, (x, 30), label, 14, look.MUTED, anchor="lm")
        width = look.font(13, bold=True).getlength(text) + 2 * 13 * 0.7
        look.badge(draw, (x - 14 - width, 30), text, colour, 13)

    def _views(self, canvas: Image.Image, draw: ImageDraw.ImageDraw, frame: int) -> int:
        """The four views; returns the height at which they end."""
        c = self.comparison
        height = VIEW * c.truth.shape[1] // c.truth.shape[2]
        for i, mode in enumerate(("truth", *MODES)):
            x, colour = EDGE + i * (VIEW + GUTTER), look.MODE_COLOURS[mode]
            y = TOP + 24
            width = look.write(draw, (x, TOP + 8), look.MODE_NAMES[mode], 15, colour, bold=True, anchor="lm")
            look.write(draw, (x + width + 8, TOP + 9), look.MODE_NOTES[mode], 11, look.MUTED, anchor="lm")
            draw.rectangle((x, y, x + VIEW - 1, y + height - 1), fill=look.PANEL)
            walk = c.by_mode.get(mode)
            if mode == "truth":
                canvas.paste(look.enlarge(c.truth[frame], VIEW), (x, y))
            elif walk is not None:
                canvas.paste(look.enlarge(walk.pictures[frame], VIEW), (x, y))
                if frame in c.revisits:
                    self._mark(draw, (x, y, x + VIEW - 1, y + height - 1), float(c.psnr[mode][frame]))
        return TOP + 24 + height

    def _mark(self, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], psnr: float) -> None:
        colour = look.grade(psnr)
        draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), outline=colour, width=3)
        text = f"{psnr:.1f} dB"
        look.badge(draw, (box[2] - 8 - look.font(13, bold=True).getlength(text) - 2 * 13 * 0.7, box[3] - 18), text, colour, 13)

    def _legend(self, draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
        look.write(draw, (x, y), "Chunks of memory", 13, bold=True, anchor="lm")
        x += 150
        entries = (("kept", look.LINE), ("in the window", look.WINDOW), ("recalled", look.RECALLED), ("now", "#ffffff"))
        for name, colour in entries:
            draw.rounded_rectangle((x, y - 6, x + 12, y + 6), 3, fill=colour)
            x += 19 + look.write(draw, (x + 18, y), name, 12, look.MUTED, anchor="lm") + 18

    def _strip(self, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], frame: int) -> None:
        """One cell a chunk: what the memory holds and what it gave to this step."""
        walk, frames = self.plan.walk, self.plan.frames
        now = frame // frames
        recalled, held = walk.chunks[now].recalled, self.plan.in_window(now)
        pitch = min(26.0, (box[2] - box[0]) / len(walk.chunks))
        gap = 1 if pitch < 9 else 3
        for i in range(len(walk.chunks)):
            x = box[0] + i * pitch
            cell = (x, box[1] + 4, x + pitch - gap, box[1] + 26)
            if i == now:
                colour = "#ffffff"
            elif i in recalled:
                colour = look.RECALLED
            elif i in held:
                colour = look.WINDOW
            else:
                colour = look.LINE if i < now else ""
            if colour:
                draw.rounded_rectangle(cell, 3, fill=colour)
            else:
                draw.rounded_rectangle(cell, 3, outline="#1d2430")
        x, text = box[0], f"WorldKV keeps {walk.chunks[now].kv_bytes / 1e6:.1f} MB of keys and values"
        full = self.comparison.by_mode.get("full")
        if full is not None:
            text += f", full KV {full.chunks[now].kv_bytes / 1e6:.1f} MB"
        look.write(draw, (x, box[3] - 6), text + self._speeds(now), 12, look.MUTED, anchor="lm")

    def _speeds(self, chunk: int) -> str:
        """How fast each mode draws the current chunk, as the end of a sentence."""
        at = chunk - self.comparison.shown // self.plan.frames
        if at < 0:
            return ""
        return "  ·  frames a second: " + ", ".join(
            f"{look.MODE_NAMES[m]} {np.median(self._speed[m][max(0, at - 4) : at + 1]):.0f}" for m in MODES if m in self._speed
        )

    def _chart(self, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], frame: int) -> None:
        """PSNR against the truth, generated frames up to now; revisit frames are underlined."""
        c, (low, high) = self.comparison, PSNR_RANGE
        look.write(draw, (box[0], box[1] - 13), "Likeness to the truth, PSNR in dB", 13, bold=True, anchor="lm")
        left, right, bottom = box[0] + 24, box[2], box[3] - 8

        def at(i: int, value: float) -> tuple[float, float]:
            part = (min(max(value, low), high) - low) / (high - low)
            return left + (i + 0.5) * (right - left) / c.frames, bottom - part * (bottom - box[1])

        for value in (10, 15, 20, 25, 30):
            y = at(0, value)[1]
            draw.line((left, y, right, y), fill="#1d2430")
            look.write(draw, (box[0], y), str(value), 11, look.MUTED, anchor="lm")
        start = at(c.shown, low)[0] - (right - left) / c.frames / 2
        draw.line((start, box[1], start, bottom), fill=look.LINE, width=2)
        look.write(draw, (start - 8, box[1] + 8), "shown", 11, look.SHOWN, anchor="rm")
        look.write(draw, (start + 8, box[1] + 8), "generated", 11, look.GENERATED, anchor="lm")
        for i in c.revisits:
            draw.rectangle((at(i, low)[0] - 2, bottom + 3, at(i, low)[0] + 2, bottom + 6), fill=look.RECALLED)
        for mode in MODES:
            points = [at(i, float(c.psnr[mode][i])) for i in range(c.shown, frame + 1)] if mode in c.by_mode else []
            if len(points) > 1:
                draw.line(points, fill=look.MODE_COLOURS[mode], width=3, joint="curve")
            if points:
                x, y = points[-1]
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=look.MODE_COLOURS[mode])
