"""Walks side by side from the command line: bars while they last, figures and films when they are over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from worldkv.actions import Walker, parse_path
from worldkv.admin_rows import Row
from worldkv.client import WalkClient
from worldkv.client.listening import Events
from worldkv.client.walk_events import Counts, Drawn, Event, Remembered
from worldkv.errors import InvalidInput, WorldKVError
from worldkv.recorded import RecordedWalk, write_walk
from worldkv.store import Miss

FILM_WIDTH = 512
"""Pixels that a film is at least wide: small pictures are enlarged by a whole number."""


@dataclass(eq=False)
class Tally:
    """What has become of one walk so far.

    world   its name; empty: it was not opened
    begun   when it was asked for, and
    first   when its first picture came, perf_counter seconds
    gaps    seconds from each chunk of the path to the next
    pictures  of the path's chunks but the first
    counts  how memory has served
    way     where the walker stood at each latent frame, the tour's among them
    shown   latent frames before the path
    failed  what ended it early
    """

    world: str = ""
    begun: float = field(default_factory=perf_counter)
    first: float | None = None
    chunks: int = 0
    gaps: list[float] = field(default_factory=list)
    pictures: int = 0
    counts: Counts = field(default_factory=Counts)
    remembered: Remembered = field(default_factory=lambda: Remembered(0, None))
    way: list[Walker] = field(default_factory=list)
    shown: int = 0
    failed: WorldKVError | None = None
    _last: float = 0.0

    def drew(self, drawn: Drawn) -> None:
        """A chunk of the path has come."""
        now = perf_counter()
        if not self.chunks:
            self.shown = drawn.key.index * len(drawn.poses)
        else:
            self.gaps.append(now - self._last)
            self.pictures += len(drawn.pictures)
        self.chunks, self._last, self.counts = self.chunks + 1, now, drawn.counts

    @property
    def fps(self) -> float | None:
        """Pictures a second along the path, from its first chunk on; None before the second."""
        return self.pictures / sum(self.gaps) if self.gaps else None

    @property
    def late(self) -> int:
        """Chunks that were wanted and did not come in time."""
        return self.counts.missed.get(Miss.LATE, 0)

    @property
    def level(self) -> str | None:
        """How safe what is kept is."""
        return self.remembered.level.name.lower() if self.remembered.level else None

    @property
    def row(self) -> Row:
        """The walk's line in the closing table."""
        p50, p95 = np.quantile(self.gaps, [0.5, 0.95]) * 1e3 if self.gaps else (None, None)
        recalled = self.counts.recalled
        return {
            "world": self.world,
            "chunks": self.chunks,
            "fps": _rounded(self.fps, 2),
            "first_frame_s": _rounded(self.first and self.first - self.begun, 3),
            "chunk_p50_ms": _rounded(p50, 1),
            "chunk_p95_ms": _rounded(p95, 1),
            "recalled": recalled,
            "hit": _rounded(self.counts.at_hand / recalled if recalled else None, 3),
            "late": self.late,
            "missed": sum(self.counts.missed.values()),
            "remembered": self.remembered.end,
            "level": self.level,
        }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


class Bars:
    """One progress bar a walk, on stderr; used as a context manager.

    shown  whether anybody wants to see them
    """

    def __init__(self, shown: bool) -> None:
        columns = (
            TextColumn("{task.description:<12.12}"),
            BarColumn(bar_width=10),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[said]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, tally: Tally, chunks: int | None) -> Callable[[], None]:
        """A bar for a walk of so many chunks, None: nobody knows; call the answer when something has changed."""
        task = self._progress.add_task(tally.world, total=chunks, said="")

        def changed() -> None:
            kept = f"kept up to {tally.remembered.end} at {tally.level}" if tally.level else "nothing kept"
            said = f"{tally.fps or 0:4.1f} FPS, {tally.counts.recalled} recalled, {tally.late} late, {kept}"
            self._progress.update(task, completed=tally.chunks, said=said)

        return changed


class Recorder:
    """Writes what is seen, in a thread, to a folder: NAME.mp4, or NAME/000000.png ... where films cannot be made.

    Used as an async context manager; leaving it raises WorldKVError if something could not be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._place, self._queue = (folder, name), SimpleQueue[NDArray[Any] | None]()

    async def __aenter__(self) -> Recorder:
        self._writing = asyncio.create_task(asyncio.to_thread(_write, *self._place, self._pictures()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._queue.put(None)
        try:
            await self._writing
        except OSError as error:
            raise WorldKVError(f"what was seen cannot be written: {error}") from error

    def add(self, pictures: NDArray[Any]) -> None:
        """Pictures [pictures, height, width, 3] uint8 that come next."""
        for picture in pictures:
            self._queue.put(picture)

    def _pictures(self) -> Iterator[NDArray[Any]]:
        while (picture := self._queue.get()) is not None:
            yield picture


def _write(folder: Path, name: str, pictures: Iterator[NDArray[Any]]) -> None:
    first = next(pictures, None)
    if first is None:
        return
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    everything = (picture for some in ((first,), pictures) for picture in some)
    try:
        from services.generator.report.video import write_video
    except ModuleNotFoundError:
        (folder / name).mkdir(exist_ok=True)
        for number, picture in enumerate(everything):
            Image.fromarray(picture).save(folder / name / f"{number:06}.png")
        return
    scale = -(-FILM_WIDTH // first.shape[1]) if first.shape[1] < FILM_WIDTH else 1
    size = [n * scale // 2 * 2 for n in first.shape[1::-1]]
    write_video(folder / f"{name}.mp4", (Image.fromarray(p).resize(size, Image.Resampling.NEAREST) for p in everything))


async def walk_all(
    client: WalkClient,
    path: str,
    openings: Sequence[dict[str, Any]],
    ahead: int,
    out: Path | None,
    record: Path | None = None,
    shown: bool = True,
) -> list[Tally]:
    """Walk a path in several sessions at once, each opened as it is said; answers how each went.

    ahead   moves of each that are sent before their turn
    out     folder for what is seen; None: it is not kept
    record  file for where was walked, of a single session in a new world, see `worldkv.recorded`; None: it is not kept
    shown   whether there are bars
    """
    tallies = [Tally() for _ in openings]
    with Bars(shown) as bars:
        walks = (
            _walk(client, path, opening, ahead, out, record, tally, bars)
            for opening, tally in zip(openings, tallies, strict=True)
        )
        await asyncio.gather(*walks)
    return tallies


async def watch_one(client: WalkClient, watch: str, out: Path | None, shown: bool = True) -> Tally:
    """Watch somebody's walk, by its id for watching, until it ends; answers how it went.

    out, shown  see `walk_all`
    """
    tally = Tally()
    try:
        async with client.watch(watch) as watched:
            tally.world = watched.opened.world.name
            with Bars(shown) as bars:
                changed = bars.add(tally, None)
                async with Recorder(out, _file_name(tally.world)) if out else nullcontext() as recorder:
                    async for event in watched:
                        if isinstance(event, Drawn):
                            tally.drew(event)
                        _note(event, tally, recorder)
                        changed()
    except WorldKVError as error:
        tally.failed = error
    return tally


async def _walk(
    client: WalkClient,
    path: str,
    opening: dict[str, Any],
    ahead: int,
    out: Path | None,
    record: Path | None,
    tally: Tally,
    bars: Bars,
) -> None:
    try:
        async with client.open(**opening) as walk:
            tally.world = walk.world.name
            changed = bars.add(tally, -(-len(parse_path(path)) // walk.frames))
            async with Recorder(out, _file_name(tally.world)) if out else nullcontext() as recorder:
                watching = asyncio.create_task(_watch(walk.events(), tally, recorder, changed))
                try:
                    async for drawn in walk.path(path, ahead=ahead):
                        tally.drew(drawn)
                        changed()
                    tally.remembered = await walk.close()
                finally:
                    await walk.leave()
                    await watching
                    changed()
            if record:
                if len(tally.way) < walk.next * walk.frames:
                    raise InvalidInput(f"--record {record}: nobody recorded how world {tally.world} began")
                write_walk(record, RecordedWalk(opening["scene"], opening["seed"], tally.shown, (*tally.way,)))
    except WorldKVError as error:
        tally.failed = error


async def _watch(events: Events, tally: Tally, recorder: Recorder | None, changed: Callable[[], None]) -> None:
    """Take note of what the walk tells besides the chunks of its path, which also raises what ends it."""
    with suppress(WorldKVError):
        async for event in events:
            _note(event, tally, recorder)
            changed()


def _note(event: Event, tally: Tally, recorder: Recorder | None) -> None:
    if isinstance(event, Drawn):
        tally.first = tally.first or perf_counter()
        tally.way += map(Walker.of, event.poses)
        if recorder:
            recorder.add(event.pictures)
    elif isinstance(event, Remembered):
        tally.remembered = event


def _file_name(world: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in world)
