"""One frame of the film: four views of the same moment, the floor plan, and how memory is doing."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from services.generator.report import look
from services.generator.report.comparison import MODES, Comparison, fps
from services.generator.report.plan import SMOOTH, Plan

WIDTH, HEIGHT = 1280, 720
EDGE = 20
GUTTER = 16
VIEW = (WIDTH - 2 * EDGE - 3 * GUTTER) // 4
"""Width of one view, pixels."""
TOP = 88
"""Where the views begin, pixels from the top."""
PSNR_RANGE = (8.0, 30.0)
"""dB at the foot and the head of the film's chart."""
TITLES = {
    "pan90": "Turn 90 degrees away, pause, turn back",
    "pan180": "Turn 180 degrees away, pause, turn back",
    "pan360": "Turn full circle, and back",
    "out and back": "Walk straight on, look round, undo it step by step",
    "square": "Walk round a square, twice",
    "door": "Look round, go through a door, look round, come back, look round",
    "door backwards": "The same way out, undone step by step",
    "loops": "Walk round a rectangle, then inside one's own track, looking aside",
    "open": "Look round in one large room, cross it, come back beside where one began",
    "wander": "Wander through the rooms, then all the way back",
    "wide": "A tour of three rooms or more, then back",
    "spins": "Five full turns, to and fro",
    "never returns": "A tour that never returns",
}
"""What happens in each named walk."""


class Film:
    """Draws the frames of a comparison. Its walks should be of all `MODES`; one that is missing stays blank."""

    def __init__(self, comparison: Comparison) -> None:
        c = self.comparison = comparison
        self.views_end = TOP + VIEW * c.truth.shape[1] // c.truth.shape[2]
        self.lower = self.views_end + 14
        self.plan = Plan(c.by_mode.get("worldkv", c.walks[-1]), HEIGHT - EDGE - self.lower)
        self.left = EDGE + self.plan.size + 2 * GUTTER
        self.chart = (self.left + 24, self.lower + 116, WIDTH - EDGE, HEIGHT - EDGE - 24)
        self._speed = {w.mode: fps(w) for w in c.walks}

    def draw(self, frame: int) -> Image.Image:
        """The picture [HEIGHT, WIDTH] at a latent frame."""
        canvas = self._still.copy()
        draw = ImageDraw.Draw(canvas)
        self._moment(draw, frame)
        self._views(canvas, draw, frame)
        canvas.paste(self.plan.draw(frame), (EDGE, self.lower))
        self._strip(draw, frame)
        self._lines(canvas, frame)
        return canvas

    @cached_property
    def _still(self) -> Image.Image:
        """What is the same in every frame."""
        c = self.comparison
        canvas = Image.new("RGB", (WIDTH, HEIGHT), look.GROUND)
        draw = ImageDraw.Draw(canvas)
        look.write(draw, (EDGE, 30), TITLES.get(c.name, c.name), 22, bold=True, anchor="lm")
        for i, mode in enumerate(("truth", *MODES)):
            x, colour = EDGE + i * (VIEW + GUTTER), look.MODE_COLOURS[mode]
            width = look.write(draw, (x, TOP - 16), look.MODE_NAMES[mode], 15, colour, bold=True, anchor="lm")
            look.write(draw, (x + width + 8, TOP - 15), look.MODE_NOTES[mode], 11, look.MUTED, anchor="lm")
            draw.rectangle((x, TOP, x + VIEW - 1, self.views_end - 1), fill=look.PANEL)
        self._legend(draw, self.left, self.lower + 8)
        self._axes(draw)
        return canvas

    def _moment(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        c = self.comparison
        text, colour = ("SHOWN", look.SHOWN) if frame < c.shown else ("GENERATED", look.GENERATED)
        label = f"frame {frame + 1} of {c.frames}"
        seen = c.revisits.get(frame)
        if seen is not None:
            label += f"  ·  looks again at frame {seen + 1}"
        x = WIDTH - EDGE - look.font(14).getlength(label)
        look.write(draw, (x, 30), label, 14, look.MUTED, anchor="lm")
        look.badge(draw, (x - 14 - look.badge_width(text, 13), 30), text, colour, 13)

    def _views(self, canvas: Image.Image, draw: ImageDraw.ImageDraw, frame: int) -> None:
        c = self.comparison
        canvas.paste(look.enlarge(c.truth[frame], VIEW), (EDGE, TOP))
        for i, mode in enumerate(MODES, start=1):
            if mode not in c.by_mode:
                continue
            x = EDGE + i * (VIEW + GUTTER)
            canvas.paste(look.enlarge(c.by_mode[mode].pictures[frame], VIEW), (x, TOP))
            if frame in c.revisits:
                psnr = float(c.psnr[mode][frame])
                text, colour = f"{psnr:.1f} dB", look.grade(psnr)
                draw.rectangle((x - 2, TOP - 2, x + VIEW + 1, self.views_end + 1), outline=colour, width=3)
                at = (x + VIEW - 9 - look.badge_width(text, 13), self.views_end - 20)
                look.badge(draw, at, text, colour, 13)

    def _legend(self, draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
        look.write(draw, (x, y), "Chunks of memory", 13, bold=True, anchor="lm")
        x += 150
        entries = (("kept", look.KEPT), ("in the window", look.WINDOW), ("recalled", look.RECALLED), ("now", "#ffffff"))
        for name, colour in entries:
            draw.rounded_rectangle((x, y - 6, x + 12, y + 6), 3, fill=colour)
            x += 38 + look.write(draw, (x + 18, y), name, 12, look.MUTED, anchor="lm")

    def _strip(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        """One cell a chunk: what the memory holds and what it gave to this step."""
        walk, now = self.plan.walk, frame // self.plan.frames
        recalled, held = walk.chunks[now].recalled, self.plan.in_window(now)
        pitch = min(26.0, (WIDTH - EDGE - self.left) / len(walk.chunks))
        gap, y = (1 if pitch < 9 else 3), self.lower + 26
        for i in range(len(walk.chunks)):
            x = self.left + i * pitch
            cell = (x, y, x + pitch - gap, y + 24)
            if i > now:
                draw.rounded_rectangle(cell, 3, outline=look.FAINT)
                continue
            lit = look.RECALLED if i in recalled else look.WINDOW if i in held else look.KEPT
            draw.rounded_rectangle(cell, 3, fill="#ffffff" if i == now else lit)
        text = f"WorldKV keeps {walk.chunks[now].kv_bytes / 1e6:.1f} MB of keys and values"
        full = self.comparison.by_mode.get("full")
        if full is not None:
            text += f", full KV {full.chunks[now].kv_bytes / 1e6:.1f} MB"
        look.write(draw, (self.left, y + 42), text + self._speeds(now), 12, look.MUTED, anchor="lm")

    def _speeds(self, chunk: int) -> str:
        """How fast each mode draws about now, as the end of a sentence."""
        at = chunk - self.comparison.shown // self.plan.frames
        if at < 0:
            return ""
        lately = {m: np.median(self._speed[m][max(0, at - 4) : at + 1]) for m in MODES if m in self._speed}
        return "  ·  frames a second: " + ", ".join(
            f"{look.MODE_NAMES[m]} {v:.{1 if v < 9.95 else 0}f}" for m, v in lately.items()
        )

    def _spot(self, frame: float, value: float) -> tuple[float, float]:
        """Where a frame's PSNR stands in the chart."""
        (left, top, right, bottom), (low, high) = self.chart, PSNR_RANGE
        part = (min(max(value, low), high) - low) / (high - low)
        return left + (frame + 0.5) * (right - left) / self.comparison.frames, bottom - part * (bottom - top)

    def _axes(self, draw: ImageDraw.ImageDraw) -> None:
        c, (left, top, right, bottom) = self.comparison, self.chart
        look.write(draw, (self.left, top - 18), "Likeness to the truth, PSNR in dB", 13, bold=True, anchor="lm")
        for value in (10, 15, 20, 25, 30):
            y = self._spot(0, value)[1]
            draw.line((left, y, right, y), fill=look.FAINT)
            look.write(draw, (self.left, y), str(value), 11, look.MUTED, anchor="lm")
        start = self._spot(c.shown - 0.5, 0)[0]
        draw.line((start, top, start, bottom), fill=look.LINE, width=2)
        look.write(draw, (start - 8, bottom + 16), "shown", 12, look.SHOWN, anchor="rm")
        x = start + 8 + look.write(draw, (start + 8, bottom + 16), "generated", 12, look.GENERATED, anchor="lm")
        for i in c.revisits:
            begin, end = (self._spot(i + side, 0)[0] for side in (-0.5, 0.5))
            draw.rectangle((begin, bottom + 3, end, bottom + 5), fill=look.RECALLED)
        if c.revisits:
            look.write(draw, (x + 16, bottom + 16), "looks again at what was shown", 12, look.RECALLED, anchor="lm")

    def _lines(self, canvas: Image.Image, frame: int) -> None:
        """PSNR against the truth of the generated frames up to now."""
        c, (left, top, right, bottom) = self.comparison, self.chart
        if frame < c.shown:
            return
        box = (left, top - 6, right, bottom + 2)
        part = canvas.crop(box)
        part = part.resize((part.width * SMOOTH, part.height * SMOOTH), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(part)
        for mode in (m for m in MODES if m in c.by_mode):
            spots = (self._spot(i, float(c.psnr[mode][i])) for i in range(c.shown, frame + 1))
            points = [((x - box[0]) * SMOOTH, (y - box[1]) * SMOOTH) for x, y in spots]
            if len(points) > 1:
                draw.line(points, fill=look.MODE_COLOURS[mode], width=2 * SMOOTH, joint="curve")
            (x, y), r = points[-1], 4 * SMOOTH
            draw.ellipse((x - r, y - r, x + r, y + r), fill=look.MODE_COLOURS[mode])
        canvas.paste(part.reduce(SMOOTH), box[:2])
