"""Train the pocket model: `python -m pocket.train --minutes 100 --out out/train`.

Diffusion forcing: each chunk of a clip has a noise level of its own, and many are exactly clean, so
that clean keys of the past are in distribution. The model predicts the clean picture.

A run can be stopped at any time and started again with the same command: it goes on from the last
checkpoint in `--out`, or begins from `--init` weights. All random numbers depend on (seed, step) alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pocket.clips import clips
from pocket.model import PocketConfig, PocketModel
from pocket.resize import resized
from pocket.rooms import TEST_SEEDS, Renderer, build
from pocket.walks import walk
from pocket.weights_file import load, save


@dataclass(frozen=True)
class TrainConfig:
    """What a run is.

    minutes      wall time the schedule is laid out over
    tokens       frames per step: short clips in larger batches first, long clips later
    short, long  clip lengths, latent frames; `lengthen` is the share of the run after which clips are long
    holes        share of steps after `lengthen` whose clips miss chunks of a longer walk
    own_errors   share of steps after `own_from` of the run whose context holds the model's own predictions
    bf16         matrix products in bfloat16 (weights and sums stay float32): half the time where the CPU has AMX
    """

    minutes: float = 100.0
    frames_a_step: int = 96
    short: int = 24
    long: int = 48
    lengthen: float = 0.35
    holes: float = 0.0
    own_errors: float = 0.0
    own_from: float = 0.75
    bf16: int = 0
    lr_muon: float = 2e-3
    lr_adam: float = 1e-3
    warmup: int = 100
    decay_from: float = 0.7
    ema: float = 0.998
    seed: int = 0


def punch(
    rng: np.random.Generator, pictures: Tensor, poses: Tensor, keep: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep `keep` frames' worth of chunks of a longer clip: the first, the last two and others at random.

    Returns pictures, poses and the time positions [keep] of what is kept: original, or counted from 0.
    """
    total = pictures.shape[1] // chunk
    middle = rng.permutation(np.arange(1, total - 2))[: keep // chunk - 3]
    kept = np.sort(np.concatenate([[0, total - 2, total - 1], middle]))
    index = torch.from_numpy((kept[:, None] * chunk + np.arange(chunk)).ravel())
    position = index if rng.random() < 0.5 else torch.arange(len(index))
    return pictures[:, index], poses[:, index], position


def noise_levels(rng: np.random.Generator, batch: int, chunks: int) -> Tensor:
    """Noise level of every chunk, [batch, chunks] in 0..1; a random share of each clip's chunks is clean."""
    share = rng.uniform(0.3, 1.0, (batch, 1))
    level = 1 / (1 + np.exp(-(1.2 * rng.standard_normal((batch, chunks)) + 0.4)))
    level = np.where(rng.random((batch, chunks)) < 0.15, 1.0, level)
    return torch.from_numpy(np.where(rng.random((batch, chunks)) < share, level, 0.0)).float()


def mix(pictures: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    """x_t = (1 - t) x + t e; level [batch, frames]."""
    t = level[..., None, None, None]
    return (1 - t) * pictures + t * torch.randn(pictures.shape, generator=generator)


class Trainer:
    """A model, its weight average and its optimizers: Muon for the blocks' matrices, AdamW for the rest."""

    def __init__(self, config: TrainConfig, model: PocketModel, out: Path) -> None:
        self.config, self.model, self.out = config, model, out
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and min(p.shape) > 6]
        ids = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in ids]
        self.muon = torch.optim.Muon(matrices, lr=config.lr_muon, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(rest, lr=config.lr_adam, betas=(0.9, 0.98), weight_decay=0.0)
        self.step, self.seconds = 0, 0.0

    @property
    def averaged(self) -> PocketModel:
        """The model with the weights' running average."""
        return cast(PocketModel, self.average.module)

    def rate(self, done: float) -> float:
        """Share of the full learning rate at `done` in 0..1 of the run: warm-up, flat, linear to 0."""
        c = self.config
        return min(1.0, (self.step + 1) / c.warmup, max(0.0, (1 - done) / (1 - c.decay_from)))

    def batch(self, rng: np.random.Generator, done: float) -> tuple[Tensor, Tensor, Tensor]:
        c, chunk = self.config, self.model.config.frames
        frames = c.short if done < c.lengthen else c.long
        batch = max(1, c.frames_a_step // frames)
        if done >= c.lengthen and rng.random() < c.holes:
            return punch(rng, *clips(rng, batch, frames * 3 // 2, self.model.config), frames, chunk)
        return (*clips(rng, batch, frames, self.model.config), torch.arange(frames))

    def predict(self, *inputs: Tensor) -> Tensor:
        """The model's clean pictures, float32; arguments as `PocketModel.forward`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(self.config.bf16)):
            return cast(Tensor, self.model(*inputs)).float()

    def train_step(self) -> float:
        c, chunk = self.config, self.model.config.frames
        rng = np.random.default_rng((c.seed, self.step))
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + self.step)
        done = self.seconds / (c.minutes * 60)
        pictures, poses, position = self.batch(rng, done)
        level = noise_levels(rng, len(pictures), len(position) // chunk).repeat_interleave(chunk, 1)
        shown = pictures
        if done > c.own_from and rng.random() < c.own_errors:
            first = noise_levels(rng, len(pictures), len(position) // chunk).repeat_interleave(chunk, 1)
            with torch.no_grad():
                guess = self.predict(mix(pictures, first, generator), first, poses, position)
            shown = torch.where((first > 0)[..., None, None, None], guess.clamp(-1, 1), pictures)
        noisy = (level > 0)[..., None, None, None]
        frames = torch.where(noisy, mix(pictures, level, generator), shown)
        guess = self.predict(frames, level, poses, position)
        weight = (level > 0) / level.clamp(min=0.15)
        error = (guess - pictures).square().mean((2, 3, 4))
        loss = (error * weight).sum() / (level > 0).sum().clamp(min=1)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, lr in ((self.muon, c.lr_muon), (self.adam, c.lr_adam)):
            optimizer.param_groups[0]["lr"] = lr * self.rate(done)
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def probe(self, frames: int, clips_count: int = 8) -> dict[str, float]:
        """PSNR, dB, of the last chunk of out-and-back pans from pure noise: all the past given, or 4 chunks of it."""
        chunk, model = self.model.config.frames, self.averaged
        rng = np.random.default_rng(7)
        worlds = [build(TEST_SEEDS.start + i) for i in range(clips_count)]
        half = frames // 2 - 3
        script = [(0.0, 0.0, 9.0)] * half + [(0.0, 0.0, 0.0)] * 6 + [(0.0, 0.0, -9.0)] * half
        poses = torch.from_numpy(np.stack([walk(w, script, rng) for w in worlds])).float()
        renderer = Renderer(worlds, model.config.height, model.config.width, model.config.fov)
        pictures, _ = renderer(torch.arange(clips_count).repeat_interleave(frames), poses.flatten(0, 1))
        pictures = pictures.unflatten(0, (clips_count, frames)) * 2 - 1
        # The chunk before the last is asked for, so that the first chunk, a sink, is not what answers.
        last = frames - chunk
        result = {}
        for name, begin in (("all", 0), ("few", last - 5 * chunk)):
            level = torch.zeros(clips_count, last - begin)
            level[:, -chunk:] = 1.0
            noisy = mix(pictures[:, begin:last], level, torch.Generator().manual_seed(1))
            guess = model(noisy, level, poses[:, begin:last], torch.arange(last - begin))
            error = (guess[:, -chunk:] - pictures[:, last - chunk : last]).square().mean((1, 2, 3, 4)) / 4
            result[name] = float((-10 * error.log10()).mean())
        return result

    def save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").rename(self.out / "checkpoint.pt")
        about = {"steps": str(self.step), "seconds": str(round(self.seconds)), "run": json.dumps(asdict(self.config))}
        save(self.out / "weights.safetensors", self.averaged, about)

    def restore(self) -> bool:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def run(self) -> None:
        """Train until the planned time is over, with a progress bar, a log line every 100 steps and a curve picture."""
        c = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        losses: list[float] = []
        with (self.out / "log.jsonl").open("a") as log, Progress(*_columns(), console=Console(stderr=True)) as bar:
            task = bar.add_task("training", total=c.minutes * 60, completed=int(self.seconds))
            while self.seconds < c.minutes * 60:
                begin = time.perf_counter()
                losses.append(self.train_step())
                self.seconds += time.perf_counter() - begin
                bar.update(task, completed=self.seconds, description=f"step {self.step}")
                if self.step % 100:
                    continue
                done = self.seconds / (c.minutes * 60)
                row = {"step": self.step, "seconds": round(self.seconds), "loss": round(float(np.mean(losses)), 5)}
                row |= {k: round(v, 2) for k, v in self.probe(c.short if done < c.lengthen else c.long).items()}
                losses.clear()
                print(json.dumps(row), file=log, flush=True)
                bar.console.print(row)
                if self.step % 500 == 0:
                    self.save()
        self.save()
        draw_curve(self.out)


def draw_curve(out: Path) -> None:
    """Draw `log.jsonl` as `curve.png`: the loss, and the probe's PSNR with all of the past and with little of it."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [row["loss"] for row in rows])
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.plot(steps, [row["all"] for row in rows], label="all of the past")
    right.plot(steps, [row["few"] for row in rows], label="the last 4 chunks")
    right.set(xlabel="step", ylabel="PSNR of a chunk seen before, dB")
    right.legend()
    figure.savefig(out / "curve.png", dpi=110)


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/train"))
    parser.add_argument("--init", type=Path, help="weights to begin from")
    parser.add_argument("--scale", type=float, default=1.0, help="enlarge pictures and patches of those weights")
    for name, value in asdict(TrainConfig()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = vars(parser.parse_args())
    out, init, scale = args.pop("out"), args.pop("init"), args.pop("scale")
    torch.manual_seed(args["seed"])
    model = resized(load(init)[0] if init else PocketModel(PocketConfig()), scale)
    trainer = Trainer(TrainConfig(**args), model, out)
    if trainer.restore():
        print(f"going on from step {trainer.step}", file=sys.stderr)
    trainer.run()


if __name__ == "__main__":
    main()
