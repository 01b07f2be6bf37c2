"""The page: one file that holds its pictures, its charts and, where they are small, its films."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from services.generator.metrics import LEAST_GAP
from services.generator.report.charts import bytes_chart, fps_chart, psnr_chart
from services.generator.report.comparison import Comparison
from services.generator.report.files import write_text
from services.generator.report.look import MODE_NAMES
from services.generator.report.picture import TITLES
from services.generator.report.results import Results, Row
from services.generator.truth import REVISIT_ANGLE, REVISIT_DISTANCE

INLINE_VIDEO = 2_000_000
"""Bytes up to which a film becomes part of the page."""
DASH = "–"


@dataclass(frozen=True)
class Exhibit:
    """A walk as the page shows it: the comparison, its files beside the page, and a telling frame of the film."""

    comparison: Comparison
    sheet: Path
    video: Path | None = None
    poster: Image.Image | None = None


def write_page(path: Path, results: Results, exhibits: Sequence[Exhibit]) -> None:
    """Write the page by rename."""
    env = Environment(
        loader=PackageLoader("services.generator.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    write_text(path, env.get_template("report.html.j2").render(page(results, exhibits)))


def page(results: Results, exhibits: Sequence[Exhibit]) -> dict[str, Any]:
    """What the template is filled with. The film of the first exhibit opens the page."""
    walks = [_walk(e) for e in exhibits]
    return {
        "tiles": tiles(results.rows),
        "rows": [_row(row, results.rows[i - 1] if i else None) for i, row in enumerate(results.rows)],
        "reasons": [f"{r.scenario}: {r.no_gain}" for r in results.rows if r.mode == "worldkv" and r.no_gain],
        "left_out": results.left_out,
        "charts": _charts([e.comparison for e in exhibits]),
        "walks": walks,
        "first": next((w for w in walks if w["video"]), None),
        "near": REVISIT_DISTANCE,
        "turned": f"{REVISIT_ANGLE:g}",
        "gap": results.gap,
        "least": f"{LEAST_GAP:g}",
        "command": results.command,
        "created": results.created,
        "seconds": round(results.seconds),
        "seeds": _seeds(results),
        "model": ", ".join(f"{k} {v}" for k, v in results.model.items()),
        "environment": results.environment,
    }


def tiles(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The headline: what memory gives and what it costs, over the walks that return."""
    by = {(r.scenario, r.mode): r for r in rows}
    back = [r for r in rows if r.mode == "worldkv" and r.truth_psnr is not None]
    found = []
    lifts = [r.truth_psnr - w for r in back if r.truth_psnr and (w := _psnr(by.get((r.scenario, "window"))))]
    if lifts:
        text = f"over a window as long, where the walker looks again (mean of {len(lifts)} walks)"
        found.append({"value": f"{sum(lifts) / len(lifts):+.1f} dB", "text": text})
    gains = [r.gain for r in back if r.gain is not None]
    if gains:
        found.append({"value": f"{sum(gains) / len(gains):.0%}", "text": "of what keeping everything would gain"})
    pairs = [(r, by[r.scenario, "full"]) for r in rows if r.mode == "worldkv" and (r.scenario, "full") in by]
    if pairs:
        longest, full = max(pairs, key=lambda pair: pair[1].kv_bytes)
        if longest.fps and full.fps:
            text = f"as fast as full KV at the end of “{longest.scenario}”"
            found.append({"value": f"{longest.fps / full.fps:.1f} ×", "text": text})
        if longest.kv_bytes:
            value = f"{full.kv_bytes / longest.kv_bytes:.1f} ×"
            found.append({"value": value, "text": "fewer bytes of keys and values than full KV there"})
    return found


def _psnr(row: Row | None) -> float | None:
    return row.truth_psnr if row else None


def _row(row: Row, before: Row | None) -> dict[str, Any]:
    return {
        "scenario": row.scenario,
        "first": before is None or before.scenario != row.scenario,
        "seeds": row.seeds,
        "mode": row.mode,
        "name": MODE_NAMES.get(row.mode, row.mode),
        "truth_psnr": number(row.truth_psnr, 1),
        "truth_ssim": number(row.truth_ssim, 2),
        "first_psnr": number(row.first_psnr, 1),
        "first_ssim": number(row.first_ssim, 2),
        "gain": DASH if row.gain is None else f"{row.gain:.0%}",
        "no_gain": row.no_gain,
        "fps": number(row.fps, 1),
        "kv": number(row.kv_bytes / 1e6, 1),
        "recalled": number(row.recalled_bytes / 1e6, 2) if row.recalled_bytes else DASH,
    }


def number(value: float | None, digits: int) -> str:
    """A number for a table, a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def _charts(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Cost on the longest walk, likeness along the walk with the most revisits."""
    if not comparisons:
        return []
    longest = max(comparisons, key=lambda c: c.frames - c.shown)
    returning = max(comparisons, key=lambda c: len(c.revisits))
    where = f"“{longest.name}”, {longest.frames} frames"
    return [
        _chart(
            fps_chart(longest),
            f"Speed by chunk, {where}, running median. Full KV attends to all it ever drew; WorldKV to a window.",
            "Line chart: latent frames a second by chunk. Full KV slows down; window and WorldKV stay level.",
        ),
        _chart(
            bytes_chart(longest),
            f"Bytes of keys and values, {where}.",
            "Line chart: megabytes of keys and values kept, by chunk, for each mode.",
        ),
        _chart(
            psnr_chart(returning),
            f"Likeness to the truth, “{returning.name}”. Above the yellow bar the walker looks again.",
            "Line chart: PSNR against the truth by generated frame for each mode.",
            wide=True,
        ),
    ]


def _chart(svg: str, caption: str, alt: str, wide: bool = False) -> dict[str, Any]:
    return {"svg": Markup(svg), "caption": caption, "alt": alt, "wide": wide}


def _walk(exhibit: Exhibit) -> dict[str, Any]:
    c = exhibit.comparison
    means = ", ".join(f"{MODE_NAMES.get(m, m)} {s.truth_psnr:.1f} dB" for m, s in c.scores.items() if s.frames)
    return {
        "title": TITLES.get(c.name, c.name),
        "scenario": c.name,
        "seed": c.seed,
        "frames": c.frames,
        "shown": c.shown,
        "revisits": len(c.revisits) or "none",
        "sheet": _data(exhibit.sheet.read_bytes(), "image/png"),
        "sheet_alt": f"Contact sheet of {c.name}: rows of pictures, truth and each mode. " + means,
        "video": _video(exhibit.video),
        "poster": _poster(exhibit.poster),
        "video_alt": f"Film of {c.name}: truth and each mode side by side; a floor plan lights the recalled chunks.",
    }


def _video(path: Path | None) -> str | None:
    if path is None:
        return None
    return _data(path.read_bytes(), "video/mp4") if path.stat().st_size <= INLINE_VIDEO else quote(path.name)


def _poster(picture: Image.Image | None) -> str | None:
    if picture is None:
        return None
    out = BytesIO()
    picture.save(out, "JPEG", quality=82)
    return _data(out.getvalue(), "image/jpeg")


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _seeds(results: Results) -> str:
    by_name: dict[str, list[int]] = {}
    for walk in results.walks:
        seeds = by_name.setdefault(walk.scenario, [])
        if walk.seed not in seeds:
            seeds.append(walk.seed)
    return "; ".join(f"{name}: {', '.join(map(str, seeds))}" for name, seeds in by_name.items())
