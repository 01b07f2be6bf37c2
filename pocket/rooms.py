"""Procedural textured rooms with doors, and their exact renderer.

A world is a square of side `SIDE` units, cut by walls of no thickness into three or four rooms that
are joined by doors, with square pillars inside. Every tile of every wall side and of the floor has a
random colour of its own: what was not seen cannot be guessed, only remembered.

Axes are OpenCV's: x right, y down, z forward. The camera moves in the plane y = 0; the floor lies at
y = +`HALF_HEIGHT` and the ceiling at y = -`HALF_HEIGHT`. The ground plane is (x, z).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, tan

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 12
"""World side, units; also the number of floor tiles along each axis (one tile a unit)."""
HALF_HEIGHT = 1.2
"""Distance from the camera plane to the floor and to the ceiling, units."""
RADIUS = 0.3
"""Half-width of a walker, units: how near a wall the camera may come."""
MAX_WALLS = 24
"""Wall pieces a world is padded to, so that worlds render as one batch."""
DOOR = 1.5
"""Door width, units."""
FIELD_OF_VIEW = 65.0
"""Horizontal field of view of the standard lens, degrees."""
TEST_SEEDS = range(1_000_000, 2_000_000)
"""Seeds reserved for evaluation; training draws from outside this range."""


@dataclass(frozen=True)
class Rooms:
    """One world.

    axis  [walls]  int64: 0 where a wall lies in a plane x = const, 1 where z = const
    place [walls]  float32: that constant, units
    span  [walls, 2] float32: begin and end along the other ground axis, units
    tiles [walls, 2, 2, SIDE, 3] float32 in 0..1: colour by wall, side, upper or lower half, unit along
    floor [SIDE, SIDE, 3] float32: colour of each floor tile, by x and z
    ceiling [3] float32
    rooms [rooms, 4] float32: x0, z0, x1, z1 of each room
    doors [doors, 2] float32: x, z of each door's centre
    """

    seed: int
    axis: NDArray[np.int64]
    place: NDArray[np.float32]
    span: NDArray[np.float32]
    tiles: NDArray[np.float32]
    floor: NDArray[np.float32]
    ceiling: NDArray[np.float32]
    rooms: NDArray[np.float32]
    doors: NDArray[np.float32]


def build(seed: int) -> Rooms:
    """Draw the world of a seed: the same seed gives the same world on every machine."""
    rng = np.random.default_rng(seed)
    x = float(rng.uniform(4.5, SIDE - 4.5))
    left, right = (float(rng.uniform(4.5, SIDE - 4.5)) for _ in range(2))
    walls: list[tuple[int, float, float, float]] = [
        (0, 0.0, 0.0, SIDE),
        (0, SIDE, 0.0, SIDE),
        (1, 0.0, 0.0, SIDE),
        (1, SIDE, 0.0, SIDE),
    ]
    doors: list[tuple[float, float]] = []

    def wall_with_doors(axis: int, place: float, begin: float, end: float, gaps: list[float]) -> None:
        for gap in sorted(gaps):
            walls.append((axis, place, begin, gap - DOOR / 2))
            doors.append((place, gap) if axis == 0 else (gap, place))
            begin = gap + DOOR / 2
        walls.append((axis, place, begin, end))

    def gap_in(begin: float, end: float) -> float:
        return float(rng.uniform(begin + DOOR / 2 + 0.4, end - DOOR / 2 - 0.4))

    whole_side = int(rng.integers(0, 3))  # 0, 1: that side stays one room; 2: both are cut
    wall_with_doors(0, x, 0.0, SIDE, [gap_in(0.0, min(left, right)), gap_in(max(left, right), SIDE)])
    rooms: list[tuple[float, float, float, float]] = []
    for side, (begin, end, cut) in enumerate(((0.0, x, left), (x, float(SIDE), right))):
        if side == whole_side:
            rooms.append((begin, 0.0, end, float(SIDE)))
            continue
        wall_with_doors(1, cut, begin, end, [gap_in(begin, end)])
        rooms += [(begin, 0.0, end, cut), (begin, cut, end, float(SIDE))]
    for _ in range(int(rng.integers(1, 4))):
        x0, z0, x1, z1 = rooms[int(rng.integers(len(rooms)))]
        half = float(rng.uniform(0.2, 0.4))
        px, pz = float(rng.uniform(x0 + 1.4, x1 - 1.4)), float(rng.uniform(z0 + 1.4, z1 - 1.4))
        if any((px - dx) ** 2 + (pz - dz) ** 2 < 1.8**2 for dx, dz in doors):
            continue
        walls += [(0, px - half, pz - half, pz + half), (0, px + half, pz - half, pz + half)]
        walls += [(1, pz - half, px - half, px + half), (1, pz + half, px - half, px + half)]

    table = np.array(walls, np.float32)
    return Rooms(
        seed=seed,
        axis=table[:, 0].astype(np.int64),
        place=table[:, 1],
        span=table[:, 2:],
        tiles=_colours(rng, (len(walls), 2, 2, SIDE), 0.9),
        floor=_colours(rng, (SIDE, SIDE), 0.7),
        ceiling=_colours(rng, (), 0.4),
        rooms=np.array(rooms, np.float32),
        doors=np.array(doors, np.float32),
    )


def _colours(rng: np.random.Generator, shape: tuple[int, ...], vivid: float) -> NDArray[np.float32]:
    """Random colours of `shape`; `vivid` scales their distance from mid grey."""
    return (0.5 + (rng.random((*shape, 3)) - 0.5) * vivid).astype(np.float32)


def clearance(rooms: Rooms, x: float, z: float) -> float:
    """Distance from a ground point to the nearest wall, units."""
    along = np.where(rooms.axis == 0, z, x)
    across = np.where(rooms.axis == 0, x, z) - rooms.place
    beyond = np.maximum(np.maximum(rooms.span[:, 0] - along, along - rooms.span[:, 1]), 0.0)
    return float(np.sqrt(across**2 + beyond**2).min())


def slide(rooms: Rooms, x: float, z: float, dx: float, dz: float) -> tuple[float, float]:
    """Move by (dx, dz), along a wall where the straight way is blocked; units.

    The move must be shorter than `RADIUS`, so that no wall is jumped over.
    """
    for mx, mz in ((dx, dz), (dx, 0.0), (0.0, dz)):
        if clearance(rooms, x + mx, z + mz) >= RADIUS:
            return x + mx, z + mz
    return x, z


def free_place(rooms: Rooms, rng: np.random.Generator, margin: float = 0.8) -> tuple[float, float]:
    """A random ground point at least `margin` units from every wall."""
    while True:
        x, z = rng.uniform(margin, SIDE - margin, 2)
        if clearance(rooms, float(x), float(z)) >= margin:
            return float(x), float(z)


class Renderer:
    """Draws batches of views of a list of worlds by ray casting, anti-aliased by supersampling.

    height, width  pixels of a picture
    supersample    rays along each pixel side
    """

    def __init__(
        self,
        worlds: list[Rooms],
        height: int = 48,
        width: int = 64,
        fov: float = FIELD_OF_VIEW,
        supersample: int = 2,
    ) -> None:
        self.height, self.width, self.supersample = height, width, supersample
        count = max(MAX_WALLS, *(len(w.axis) for w in worlds))
        self._axis = torch.stack([_pad(w.axis, count) for w in worlds])
        self._place = torch.stack([_pad(w.place, count) for w in worlds])
        # A padding wall spans nothing, so no ray meets it.
        self._begin = torch.stack([_pad(w.span[:, 0], count, 1e9) for w in worlds])
        self._end = torch.stack([_pad(w.span[:, 1], count, -1e9) for w in worlds])
        tiles = torch.stack([_pad(w.tiles, count) for w in worlds]).flatten(1, 4)
        floor = torch.stack([torch.from_numpy(w.floor) for w in worlds]).flatten(1, 2)
        ceiling = torch.stack([torch.from_numpy(w.ceiling) for w in worlds])[:, None]
        # One table of colours: the wall tiles, then the floor, then the ceiling.
        self._colours = torch.cat([tiles, floor, ceiling], 1)
        self._first_floor = tiles.shape[1]
        rows, columns = height * supersample, width * supersample
        focal = columns / 2 / tan(fov * pi / 360)
        u = (torch.arange(columns) + 0.5 - columns / 2) / focal
        v = (torch.arange(rows) + 0.5 - rows / 2) / focal
        self._rays = torch.stack([u.expand(rows, -1), v[:, None].expand(-1, columns), torch.ones(rows, columns)], -1)

    def __call__(self, world: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Render views.

        world [views] int64: which world of the list each view looks at
        pose  [views, 4, 4] float: camera-to-world

        Returns pictures [views, 3, height, width] float32 in 0..1 and depth [views, height, width]
        float32, units along the viewing axis (mean over a pixel's rays).
        """
        pictures, depths = [], []
        for w, p in zip(world.split(16), pose.float().split(16), strict=True):
            picture, depth = self._draw(w, p)
            s, views = self.supersample, len(w)
            shape = (views, self.height, s, self.width, s)
            pictures.append(picture.view(*shape, 3).mean((2, 4)).permute(0, 3, 1, 2))
            depths.append(depth.view(*shape).mean((2, 4)))
        return torch.cat(pictures), torch.cat(depths)

    def _draw(self, world: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        rays = torch.einsum("nij,rcj->nrci", pose[:, :3, :3], self._rays)
        level = bool((pose[:, 1, :3] - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 1e-6)
        # A level camera sees one stretch of wall per column, whatever the row.
        flat = rays[:, :1] if level else rays
        wall, t_wall, along, side = self._nearest_wall(
            world, pose[:, 0, 3], pose[:, 2, 3], flat[..., 0].flatten(1), flat[..., 2].flatten(1)
        )
        n, rows, columns, _ = rays.shape
        grid = flat.shape[1:3]

        def spread(x: Tensor) -> Tensor:
            return x.view(n, *grid).expand(n, rows, columns).reshape(n, -1)

        wall, t_wall, along, side = (spread(x) for x in (wall, t_wall, along, side))
        dx, dy, dz = (rays[..., i].flatten(1) for i in range(3))
        t_plane = (HALF_HEIGHT - dy.sign() * pose[:, 1, 3, None]) / dy.abs().clamp(min=1e-6)
        y = pose[:, 1, 3, None] + dy * t_wall
        tile = ((wall * 2 + side) * 2 + (y > 0)) * SIDE + along
        gx = (pose[:, 0, 3, None] + dx * t_plane).long().clamp_(0, SIDE - 1)
        gz = (pose[:, 2, 3, None] + dz * t_plane).long().clamp_(0, SIDE - 1)
        plane = self._first_floor + torch.where(dy > 0, gx * SIDE + gz, SIDE * SIDE)
        hit_plane = t_plane < t_wall
        depth = torch.where(hit_plane, t_plane, t_wall)
        entry = torch.where(hit_plane, plane, tile) + world[:, None] * self._colours.shape[1]
        colour = self._colours.flatten(0, 1).index_select(0, entry.flatten()).view(*entry.shape, 3)
        return colour / (1 + 0.06 * depth[..., None]), depth

    def _nearest_wall(
        self, world: Tensor, ox: Tensor, oz: Tensor, dx: Tensor, dz: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First wall each ground ray meets: wall, ray length, unit along it, side. All [views, rays]."""
        is_x = (self._axis[world] == 0)[:, None]
        o_across = torch.where(is_x, ox[:, None, None], oz[:, None, None])
        o_along = torch.where(is_x, oz[:, None, None], ox[:, None, None])
        d_across = torch.where(is_x, dx[..., None], dz[..., None])
        d_along = torch.where(is_x, dz[..., None], dx[..., None])
        t = (self._place[world][:, None] - o_across) / d_across
        along = o_along + t * d_along
        begin, end = self._begin[world][:, None], self._end[world][:, None]
        t = torch.where((t > 1e-4) & (along >= begin) & (along <= end), t, torch.inf)
        nearest, wall = t.min(-1)
        pick = wall[..., None]
        unit = (along - begin).gather(-1, pick)[..., 0].long().clamp(0, SIDE - 1)
        side = (d_across.gather(-1, pick)[..., 0] > 0).long()
        return wall, nearest, unit, side


def _pad(values: NDArray[np.generic], count: int, fill: float = 0.0) -> Tensor:
    tensor = torch.from_numpy(values)
    out = tensor.new_full((count, *tensor.shape[1:]), fill)
    out[: len(values)] = tensor
    return out
