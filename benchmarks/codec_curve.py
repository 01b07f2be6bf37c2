"""What keys and values lose for their bytes, on the pocket model's own: `python -m benchmarks.codec_curve`.

Walks through worlds the model never saw are shown to it; the keys and values of all chunks but the last go through a
codec, and a denoise pass over the last chunk attends to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.registry import Case, bench
from pocket.model import PocketModel
from pocket.rooms import TEST_SEEDS, Renderer, build
from pocket.walks import moves, walk
from pocket.weights_file import load, load_codecs
from worldkv.codec import CODECS, Codec, bits_per_value
from worldkv.rope import place

CHUNKS = 8
"""Chunks of a walk; the last one is looked at."""
WALKS = 4
LEVEL = 0.6
"""Noise level of the last chunk."""


class Walks(NamedTuple):
    """Walks that were shown to the model.

    pictures  [walks, frames, 3, height, width] in -1..1, poses [walks, frames, 4, 4]
    keys, values  of all chunks but the last, [layers, walks, chunks, tokens, heads, head_dim]
    """

    pictures: Tensor
    poses: Tensor
    keys: Tensor
    values: Tensor


class Loss(NamedTuple):
    """What a pair of codecs costs. Errors are relative root mean squares, means over the layers.

    bits       of a value
    attention  error of what attention hands on, earlier layers' errors included
    picture    PSNR, dB, of the predicted chunk against the one predicted from raw keys and values
    """

    bits: float
    keys: float
    values: float
    attention: float
    picture: float


@cache
def model() -> PocketModel:
    return load()[0].eval().requires_grad_(False)


@cache
def shown() -> Walks:
    """Walks in worlds held out from training, seen chunk after chunk with all the past at hand."""
    net, walks = model(), WALKS
    c, rng = net.config, np.random.default_rng(0)
    frames = CHUNKS * c.frames
    worlds = [build(seed) for seed in TEST_SEEDS[:walks]]
    poses = torch.from_numpy(np.stack([walk(world, moves(frames, rng), rng) for world in worlds])).float()
    renderer = Renderer(worlds, c.height, c.width, c.fov)
    pictures, _ = renderer(torch.arange(walks).repeat_interleave(frames), poses.flatten(0, 1))
    pictures = pictures.unflatten(0, (walks, frames)) * 2 - 1
    empty = torch.empty(c.layers, walks, 0, c.frames * c.tokens, c.heads, c.head_dim)
    seen = Walks(pictures, poses, empty, empty)
    for chunk in range(CHUNKS - 1):
        _, (keys, values) = look(net, seen, chunk, 0.0)
        keys, values = keys[:, :, None], values[:, :, None]
        seen = seen._replace(keys=torch.cat([seen.keys, keys], 2), values=torch.cat([seen.values, values], 2))
    return seen


def look(net: PocketModel, seen: Walks, chunk: int, level: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One pass over a chunk of the walks at a noise level, attending to the keys and values of those before it."""
    c = net.config
    now = slice(chunk * c.frames, (chunk + 1) * c.frames)
    clean, walks = seen.pictures[:, now], len(seen.pictures)
    frames = (1 - level) * clean + level * torch.randn(clean.shape, generator=torch.Generator().manual_seed(chunk))
    before = seen.keys.unbind(2)
    placed = [place(x.flatten(0, 1), c.rope, torch.tensor([i * c.frames])).view_as(x) for i, x in enumerate(before)]
    keys = torch.stack(placed, 2) if placed else seen.keys
    memory = keys.flatten(2, 3), seen.values.flatten(2, 3)
    levels = torch.full((walks, c.frames), level)
    rays = net.embed_rays(seen.poses[:, now])
    position = torch.full((walks,), chunk * c.frames)
    with torch.inference_mode():
        result: tuple[Tensor, tuple[Tensor, Tensor]] = net.chunk(frames, levels, rays, position, memory, None)
    return result


def attended(net: PocketModel, seen: Walks) -> tuple[Tensor, list[Tensor]]:
    """The predicted last chunk, and what attention handed on in each layer on the way."""
    found: list[Tensor] = []
    outs = [module for name, module in net.named_modules() if name.endswith(".out")]
    hooks = [out.register_forward_pre_hook(lambda _, args: found.append(args[0])) for out in outs]
    picture, _ = look(net, seen, CHUNKS - 1, LEVEL)
    for hook in hooks:
        hook.remove()
    assert len(found) == net.config.layers
    return picture, found


def through(by: Codec, x: Tensor) -> Tensor:
    """Keys or values [layers, walks, chunks, ...] after each chunk was coded and decoded."""
    chunks = x.flatten(1, 2)
    shape = chunks[:, 0].shape
    done = [by.decode(by.encode(chunks[:, i]), shape, x.dtype, "cpu") for i in range(chunks.shape[1])]
    return torch.stack(done, 1).view(x.shape)


def measure(by_keys: Codec, by_values: Codec) -> Loss:
    net, seen = model(), shown()
    coded = seen._replace(keys=through(by_keys, seen.keys), values=through(by_values, seen.values))
    (picture, truth), (other, found) = attended(net, seen), attended(net, coded)
    error = (picture - other).square().mean().clamp(min=1e-12)
    return Loss(
        bits=_bits(by_keys, by_values),
        keys=_error(seen.keys, coded.keys),
        values=_error(seen.values, coded.values),
        attention=_error(truth, found),
        picture=float(10 * torch.log10(4 / error)),
    )


def _error(truth: Tensor | list[Tensor], found: Tensor | list[Tensor]) -> float:
    """Relative error, the mean over layers."""
    return fmean(float((a - b).norm() / a.norm()) for a, b in zip(truth, found, strict=True))


def pairs() -> dict[str, tuple[Codec, Codec]]:
    """Codecs of keys and of values by name, the largest first: those everybody has, and those fitted to the model."""
    found: dict[str, tuple[Codec, Codec]] = {name: (by, by) for name, by in CODECS.items() if name != "raw"}
    found |= load_codecs()
    return dict(sorted(found.items(), key=lambda item: _bits(*item[1]), reverse=True))


def _bits(by_keys: Codec, by_values: Codec) -> float:
    """Bits of a value of a whole chunk, scales and all else included."""
    c = model().config
    shape = (c.layers, c.frames * c.tokens, c.heads, c.head_dim)
    return fmean(bits_per_value(by, shape, torch.bfloat16) for by in (by_keys, by_values))


@bench("codec.curve", bar="", about="relative error of attention's output by bits a value; baseline is that of int4")
def curve() -> Iterator[Case]:
    base = measure(CODECS["int4"], CODECS["int4"])
    for name, both in pairs().items():
        loss = measure(*both)
        yield Case(f"{name}: {loss.bits:.3f} bits", loss.attention, "ratio", base.attention)


@bench("codec.fitted", bar=">= 1", about="attention error of int4 over that of the fitted codec of a third of its bits")
def fitted_over_int4() -> Iterator[Case]:
    base = measure(CODECS["int4"], CODECS["int4"])
    for name, both in pairs().items():
        loss = measure(*both)
        if name.startswith("klt") and 1.4 < loss.bits <= base.bits / 3:
            yield Case(f"{name}: {loss.bits:.3f} bits", base.attention / loss.attention, "ratio", base.attention)


@bench("codec.speed", bar="<= 3", about="a chunk's keys and values coded or decoded on one core, ms, best of many")
def speed() -> Iterator[Case]:
    seen = shown()
    keys, values = (x[:, 0, 0].contiguous() for x in (seen.keys, seen.values))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, (by_keys, by_values) in pairs().items():
        coded = by_keys.encode(keys), by_values.encode(values)
        code = partial(_both, partial(by_keys.encode, keys), partial(by_values.encode, values))
        shape, dtype = keys.shape, keys.dtype
        decode = partial(
            _both,
            partial(by_keys.decode, coded[0], shape, dtype, "cpu"),
            partial(by_values.decode, coded[1], shape, dtype, "cpu"),
        )
        for way, run in (("code", code), ("decode", decode)):
            runs = sorted(_milliseconds(run) for _ in range(50))
            yield Case(f"{name}, {way}", runs[0], "ms", None, runs)
    torch.set_num_threads(threads)


def _both(a: Callable[[], object], b: Callable[[], object]) -> None:
    a()
    b()


def _milliseconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    print("codec           bits  of bf16     keys   values  attention  picture dB")
    for name, both in pairs().items():
        loss = measure(*both)
        print(
            f"{name:<12} {loss.bits:7.3f} {16 / loss.bits:7.2f}x {loss.keys:8.4f} {loss.values:8.4f} "
            f"{loss.attention:10.4f} {loss.picture:11.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
