"""Everything a comparison leaves behind in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from services.generator.report.comparison import Comparison
from services.generator.report.html import Exhibit, write_page
from services.generator.report.picture import Film
from services.generator.report.results import Results, write_results
from services.generator.report.sheet import sheet, stacked, write_picture
from services.generator.report.video import write_video

CONTACT = ("pan180", "door")
"""Walks of the combined sheet, where they were walked."""


def write_exhibit(out: Path, comparison: Comparison, progress: Callable[[], None] | None = None) -> Exhibit:
    """Write the sheet and the film of a walk, calling `progress` after each of the film's frames."""
    tick = progress or (lambda: None)
    stem = "".join(letter if letter.isalnum() else "-" for letter in comparison.name)
    still, moving = out / f"{stem}.png", out / f"{stem}.mp4"
    write_picture(still, sheet(comparison))
    film = Film(comparison)

    def frames() -> Iterator[Image.Image]:
        for i in range(comparison.frames):
            yield film.draw(i)
            tick()

    write_video(moving, frames())
    return Exhibit(comparison, still, moving, film.draw(telling(comparison)))


def telling(comparison: Comparison) -> int:
    """A frame that says what the walk is about: two thirds through the revisits, or through all that is generated."""
    later = list(comparison.revisits) or list(range(comparison.shown, comparison.frames))
    return later[len(later) * 2 // 3]


def write_report(out: Path, results: Results, exhibits: Sequence[Exhibit]) -> dict[str, Any]:
    """Write the combined sheet, the numbers and the page; returns the numbers."""
    chosen = [e for e in exhibits if e.comparison.name in CONTACT] or list(exhibits[:2])
    write_picture(out / "contact.png", stacked([sheet(e.comparison) for e in chosen]))
    data = write_results(out / "results.json", results)
    write_page(out / "report.html", results, exhibits)
    return data
