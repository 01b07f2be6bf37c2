"""The floor plan: walls and doors, the way walked, and which remembered views are in use."""

from __future__ import annotations

from collections.abc import Set
from functools import cached_property
from math import radians

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pocket.rooms import FIELD_OF_VIEW, SIDE, Rooms
from services.generator.recording import Recording
from services.generator.report import look
from services.generator.report.comparison import chunk_frames
from worldkv.pose import Matrix
from worldkv.window import WindowConfig

Points = list[tuple[float, float]]

SMOOTH = 2
"""Pixels drawn for each pixel shown, along each side."""
REACH = 3.2
"""How far a view is drawn, units."""
MARGIN = 0.35
"""Ground shown beyond the outer walls, units."""


class Plan:
    """Draws the world of one walk from above, square, x to the right and z upwards.

    walk    whose memory is drawn
    size    pixels of a side
    window  which chunks stand in the window besides the recalled ones
    """

    def __init__(self, walk: Recording, size: int, window: WindowConfig | None = None) -> None:
        self.walk, self.size, self.window = walk, size, window or WindowConfig()
        self.frames = chunk_frames(walk)
        self._scale = size * SMOOTH / (SIDE + 2 * MARGIN)

    def in_window(self, chunk: int) -> set[int]:
        """Chunks in the sink and recent slots when a chunk is made."""
        sink, recent = (n // self.frames for n in (self.window.sink, self.window.recent))
        return {i for i in range(chunk) if i < sink or i >= chunk - recent}

    def draw(self, frame: int) -> Image.Image:
        """The plan as it is when a latent frame is made."""
        chunk = frame // self.frames
        recalled, held = set(self.walk.chunks[chunk].recalled), self.in_window(chunk)
        canvas = self._ground.copy()
        stored = set(range(chunk)) - recalled - held
        for chunks, colour, fill, edge in ((stored, look.TEXT, 20, 40), (held, look.WINDOW, 75, 130)):
            self._paint(canvas, chunks, colour, fill, edge)
        for i in sorted(recalled):
            self._paint(canvas, {i}, look.RECALLED, 120, 220)
        draw = ImageDraw.Draw(canvas)
        self._walls(draw)
        self._trail(draw, frame)
        for i in sorted(recalled):
            self._dot(draw, self._middle(i), 0.13, look.RECALLED)
        self._walker(canvas, frame)
        return canvas.reduce(SMOOTH)

    def _at(self, x: float, z: float) -> tuple[float, float]:
        return (x + MARGIN) * self._scale, (SIDE - z + MARGIN) * self._scale

    def _middle(self, chunk: int) -> tuple[float, float]:
        x, _, z = self.walk.poses[chunk * self.frames + self.frames // 2, :3, 3]
        return self._at(float(x), float(z))

    @cached_property
    def _ground(self) -> Image.Image:
        """The floor, each tile in a dark shade of its own colour."""
        side = self.size * SMOOTH
        canvas = Image.new("RGB", (side, side), look.PANEL)
        draw = ImageDraw.Draw(canvas)
        dark = np.array([18, 22, 30])
        for x in range(SIDE):
            for z in range(SIDE):
                shade = dark + 0.16 * (self.walk.rooms.floor[x, z] * 255 - dark)
                draw.rectangle((*self._at(x, z + 1), *self._at(x + 1, z)), fill=tuple(int(c) for c in shade))
        return canvas

    @cached_property
    def _views(self) -> list[Points]:
        """What each chunk saw, from its middle frame, as outlines in pixels."""
        middle = self.walk.poses[self.frames // 2 :: self.frames]
        return [[self._at(x, z) for x, z in outline(self.walk.rooms, pose)] for pose in middle]

    def _paint(self, canvas: Image.Image, chunks: Set[int], colour: str, fill: int, edge: int) -> None:
        """Tint what chunks saw; strengths of the tint from 0 to 255. Where views overlap it is no stronger."""
        if not chunks:
            return
        mask = Image.new("L", canvas.size)
        draw = ImageDraw.Draw(mask)
        for i in sorted(chunks):
            draw.polygon(self._views[i], fill=fill, outline=edge)
        box = mask.getbbox()
        canvas.paste(colour, box, mask.crop(box))

    def _walls(self, draw: ImageDraw.ImageDraw) -> None:
        rooms = self.walk.rooms
        for axis, place, (begin, end) in zip(rooms.axis, rooms.place, rooms.span, strict=True):
            ends = ((place, begin), (place, end)) if axis == 0 else ((begin, place), (end, place))
            draw.line([self._at(float(x), float(z)) for x, z in ends], fill="#c6cddb", width=3 * SMOOTH)
        for x, z in rooms.doors:
            self._dot(draw, self._at(float(x), float(z)), 0.07, look.MUTED)

    def _trail(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        points = [self._at(float(x), float(z)) for x, z in self.walk.poses[: frame + 1, [0, 2], 3]]
        shown = self.walk.shown
        for part, colour in ((points[:shown], look.SHOWN), (points[shown - 1 :], look.GENERATED)):
            if len(part) > 1:
                draw.line(part, fill=colour, width=2 * SMOOTH, joint="curve")

    def _walker(self, canvas: Image.Image, frame: int) -> None:
        pose = self.walk.poses[frame]
        draw = ImageDraw.Draw(canvas)
        cone = [self._at(x, z) for x, z in outline(self.walk.rooms, pose)]
        draw.line([*cone, cone[0]], fill="#ffffff", width=SMOOTH, joint="curve")
        self._dot(draw, cone[0], 0.24, look.GROUND)
        self._dot(draw, cone[0], 0.18, "#ffffff")

    def _dot(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, colour: str) -> None:
        r = radius * self._scale
        draw.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=colour)


def outline(rooms: Rooms, pose: Matrix, reach: float = REACH, rays: int = 33) -> list[tuple[float, float]]:
    """Ground points (x, z) around what a camera sees: its centre, then along the view from left to right."""
    x, z = float(pose[0, 3]), float(pose[2, 3])
    forward = np.arctan2(pose[0, 2], pose[2, 2])
    half = radians(FIELD_OF_VIEW) / 2
    way = forward + np.linspace(-half, half, rays)
    far = np.minimum(reach, sight(rooms, x, z, way))
    return [(x, z), *((float(a), float(b)) for a, b in zip(x + far * np.sin(way), z + far * np.cos(way), strict=True))]


def sight(rooms: Rooms, x: float, z: float, way: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from a ground point to the first wall along each bearing, units; infinite where there is none."""
    on_x = (rooms.axis == 0)[:, None]
    step_x, step_z = np.sin(way)[None], np.cos(way)[None]
    across = np.where(on_x, step_x, step_z)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (rooms.place[:, None] - np.where(on_x, x, z)) / across
        along = np.where(on_x, z, x) + t * np.where(on_x, step_z, step_x)
    hit = (t > 1e-6) & (along >= rooms.span[:, :1]) & (along <= rooms.span[:, 1:])
    return np.asarray(np.where(hit, t, np.inf).min(0))
