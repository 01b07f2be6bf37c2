"""What a folder of published models holds, whether it will run, and what it takes: told from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.generator.adapters.wan.choosing import Candidate, Plan, candidates, gathered, playable
from services.generator.adapters.wan.devices import devices, dtype_of, encoder_dtype, room
from services.generator.adapters.wan.folder import Part, look
from services.generator.adapters.wan.recorded import recorded_bytes, records
from services.generator.adapters.wan.settings import WanSettings
from services.generator.adapters.wan.state import carried_bytes, drawing_bytes
from services.generator.adapters.wan.variants import Variant
from worldkv.errors import InvalidConfig, WeightsError

NO_DIGEST = "0" * 32
"""Of weights that were not read."""


@dataclass(frozen=True)
class Cost:
    """What a model takes, in bytes.

    device   of its transformer and VAE
    encoder  of what encodes prompts or pictures
    chunk    keys and values of one chunk, uncoded
    frame    those of one latent frame: a window of n frames takes n times as much, for each session
    state    what a session carries besides: the decoder's features, caches of action modules, and its prompt's keys
             and values
    drawing  what is there of a chunk while it is drawn by itself, besides
    """

    device: int
    encoder: int
    chunk: int
    frame: int
    state: int
    drawing: int


@dataclass(frozen=True)
class Verdict:
    """Of one model that a folder may be.

    why   it will not run, empty if it will
    grid, cost  None if it will not
    fits  whether all of its weights have room on the devices of this machine, which may be another than it is to run on
    """

    variant: Variant
    transformer: Part
    why: str = ""
    grid: tuple[int, int] | None = None
    cost: Cost | None = None
    fits: bool = False


@dataclass(frozen=True)
class Report:
    """What was found: all parts, what the transformers among them are, and what each would run as."""

    parts: tuple[Part, ...]
    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]

    def about(self, part: Part) -> str:
        """What a part is, or what is wrong with it, in words."""
        for each in self.candidates:
            if each.part is part:
                return each.words
        return part.trouble or ("nothing that a model here is made of" if part.kind == "unknown" else "")


def check(place: Path, name: str, settings: WanSettings) -> Report:
    """What is in a folder, or file, and in `settings.parts`.

    name  of the model that is asked about; `ANY`: all that there are

    Raises WeightsMissing for a place that is not there, InvalidConfig for a transformer that is named and is not there.
    """
    places = [place, *settings.parts]
    parts = look(places)
    known = candidates(parts, places)
    models = playable(known, name, place, settings)
    verdicts = [_verdict(parts, part, variant, place, settings) for part, variant in models]
    return Report(tuple(parts), tuple(known), tuple(verdicts))


def cost(plan: Plan, settings: WanSettings) -> Cost:
    """What a model takes as these settings run it."""
    dtype, vae_dtype = dtype_of(settings.dtype), dtype_of(settings.vae_dtype)
    spec = plan.variant.spec(NO_DIGEST, NO_DIGEST, plan.grid, settings.dtype)
    features, vae = plan.vae_sizes.feature_bytes(plan.grid, vae_dtype), plan.vae_sizes
    encoders = [part.parameters for part in (plan.text, plan.image) if part]
    carried = carried_bytes(plan.variant.backbone, spec.frame_tokens, dtype)
    held = recorded_bytes(carried, spec.raw_bytes, 1) if records(plan.variant.backbone, devices(settings)[0]) else 0
    return Cost(
        device=plan.transformer.parameters * dtype.itemsize + plan.vae.parameters * vae_dtype.itemsize,
        encoder=sum(encoders) * encoder_dtype(settings).itemsize,
        chunk=spec.raw_bytes,
        frame=spec.raw_bytes // spec.frames,
        state=features + carried,
        drawing=drawing_bytes(plan.variant.backbone, spec, features, vae.pictures, vae.pixels, 1) + held,
    )


def _verdict(parts: Sequence[Part], transformer: Part, variant: Variant, place: Path, settings: WanSettings) -> Verdict:
    try:
        plan = gathered(parts, transformer, variant, place, settings)
        told = cost(plan, settings)
        return Verdict(variant, transformer, "", plan.grid, told, _fits(told, settings))
    except (WeightsError, InvalidConfig) as error:
        return Verdict(variant, transformer, str(error))


def _fits(told: Cost, settings: WanSettings) -> bool:
    own, encoders = devices(settings)
    if own == encoders:
        return told.device + told.encoder <= room(own)
    return told.device <= room(own) and told.encoder <= room(encoders)
