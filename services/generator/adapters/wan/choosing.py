"""Which model the files of a folder make, and which of them: before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.generator.adapters.wan.encoders import image, text
from services.generator.adapters.wan.files import about, plain
from services.generator.adapters.wan.folder import Kind, Part, alike, look, of_kind, troubles
from services.generator.adapters.wan.settings import ANY, WanSettings
from services.generator.adapters.wan.sizes import CONFIG, Sizes
from services.generator.adapters.wan.vae import Sizes as VaeSizes
from services.generator.adapters.wan.vae import sizes as vae_sizes
from services.generator.adapters.wan.variants import SHIFTED, VARIANTS, Variant
from services.generator.adapters.wan.weights import fitting
from worldkv.errors import InvalidConfig, WeightsMismatch, WeightsMissing

PASSED_OVER = {
    "high_noise_model": "an expert of a model that draws whole clips",
    "low_noise_model": "an expert of a model that draws whole clips",
    "transformer_causal": "not distilled: it needs many passes a chunk, and guidance",
    "base_model": "not distilled: it needs many passes a chunk",
}
"""Published folders of transformers that look like models which can be played and are none: only their names tell."""
PIXELS, PICTURES = 8, 4
"""A side of a latent cell, and pictures of a latent frame, that all of the family are told of."""
DIFFUSERS = "diffusion_pytorch_model"
"""How files begin that a `config.json` beside them is about."""
EXPECTED: Mapping[Kind, str] = {
    "vae": "VAE (published as Wan2.1_VAE.pth)",
    "text": "text encoder (models_t5_umt5-xxl-enc-bf16.pth)",
    "tokenizer": "tokenizer of its text encoder (google/umt5-xxl/)",
    "image": "image encoder (models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth)",
}


@dataclass(frozen=True)
class Candidate:
    """A transformer in a folder.

    variants     that it can be; more than one where only their names differ
    trouble      why it can be none, empty if it can
    passed_over  why it is not taken unless it is asked for by its own name
    """

    part: Part
    variants: tuple[Variant, ...]
    trouble: str = ""
    passed_over: str = ""

    @property
    def words(self) -> str:
        """What it is."""
        names = " or ".join(variant.name for variant in self.variants)
        return self.trouble or (f"passed over: {self.passed_over}" if self.passed_over else names)


@dataclass(frozen=True)
class Plan:
    """The files that make a model.

    grid  rows and columns of latent cells
    text, tokenizer  of a model that is told words, image of one that is told a picture, None for others
    vae_sizes        what the VAE is made of
    """

    variant: Variant
    grid: tuple[int, int]
    transformer: Part
    vae: Part
    vae_sizes: VaeSizes
    text: Part | None = None
    tokenizer: Part | None = None
    image: Part | None = None


def planned(name: str, place: Path, settings: WanSettings) -> Plan:
    """The plan for a model by its name, or for any (`ANY`), of what is in a folder and in `settings.parts`.

    Raises WeightsMissing, WeightsMismatch or InvalidConfig, naming all that lacks or does not fit.
    """
    parts = look([place, *settings.parts])
    transformer, variant = _chosen(parts, name, place, settings)
    return gathered(parts, transformer, variant, place, settings)


def candidates(parts: Sequence[Part], places: Sequence[Path]) -> list[Candidate]:
    """The transformers among some parts, and what each can be."""
    return [_candidate(part, places) for part in of_kind(parts, "transformer")]


def playable(known: Sequence[Candidate], name: str, place: Path, settings: WanSettings) -> list[tuple[Part, Variant]]:
    """Each model of a name, or any, that a transformer can be: the one that is asked for, or all but those passed over.

    Raises InvalidConfig if there is none where one is asked for, naming those there are.
    """
    if settings.transformer:
        known = [_asked_for(known, place / settings.transformer)]
    return [
        (each.part, variant)
        for each in known
        if settings.transformer or not each.passed_over
        for variant in each.variants
        if name in (ANY, variant.name)
    ]


def gathered(parts: Sequence[Part], transformer: Part, variant: Variant, place: Path, settings: WanSettings) -> Plan:
    """A model's transformer with all that it needs besides; raises as `planned` does."""
    config = variant.backbone
    wanted: list[Kind] = ["vae", *(("text", "tokenizer") if config.context.kind == "text" else ("image",))]
    if lost := [f"no {EXPECTED[kind]}" for kind in wanted if not of_kind(parts, kind)]:
        raise WeightsMissing(f"{variant.name} needs what is not in {place}: {', '.join(lost)}{troubles(parts)}")
    there = {kind: _one(parts, kind, settings) for kind in wanted}
    sizes = _vae_sizes(variant, there["vae"])
    _check_encoder(variant, there)
    rows, columns = settings.grid or variant.grid
    if rows % config.patch or columns % config.patch:
        raise InvalidConfig(f"wan.grid = {[rows, columns]}: expected rows and columns that divide by {config.patch}")
    return Plan(_shifted(variant, settings), (rows, columns), transformer, vae_sizes=sizes, **there)


def _chosen(parts: Sequence[Part], name: str, place: Path, settings: WanSettings) -> tuple[Part, Variant]:
    """The transformer that makes the model of a name, and which model that is; raises as `planned` does."""
    known = candidates(parts, [place, *settings.parts])
    fit = playable(known, name, place, settings)
    if len(fit) == 1:
        return fit[0]
    if fit:
        them = ", ".join(f"{variant.name} of {part.path}" for part, variant in fit)
        key = "model" if name == ANY else "wan.transformer"
        raise InvalidConfig(f"{key}: {place} holds several, name one: {them}")
    if not known:
        raise WeightsMissing(f"{place} holds no transformer{troubles(parts)}")
    them = "; ".join(f"{each.part.path}: {each.words}" for each in known)
    raise WeightsMismatch(f"{place} holds no {name}; {them}{troubles(parts)}")


def _one(parts: Sequence[Part], kind: Kind, settings: WanSettings) -> Part:
    """The part of a kind of which there is one at least: that which is named itself in `settings.parts`, if one is.

    Raises InvalidConfig for several whose content differs.
    """
    named = {each.resolve() for each in settings.parts}
    known = of_kind(parts, kind)
    known = [each for each in known if each.path.resolve() in named] or known
    if others := [each for each in known[1:] if not alike(known[0], each)]:
        them = ", ".join(str(each.path) for each in (known[0], *others))
        raise InvalidConfig(f"wan.parts: there are several of the {EXPECTED[kind]}, name one: {them}")
    return known[0]


def _candidate(part: Part, places: Sequence[Path]) -> Candidate:
    shapes = {plain(name): shape for name, shape in part.shapes.items()}
    config = _config_of(part, places)
    over = PASSED_OVER.get(part.path.name, "") or PASSED_OVER.get(part.path.parent.name, "")
    try:
        sizes = Sizes.read(config) if config else None
        fit = fitting(shapes, VARIANTS.values(), sizes)
    except WeightsMismatch as error:
        return Candidate(part, (), str(error), over)
    if sizes and config and sizes.plain and _about(config, part):
        over = over or "a model that draws whole clips, as its config.json says"
    return Candidate(part, fit, "", over)


def _config_of(part: Part, places: Sequence[Path]) -> Path | None:
    """The config.json that states a transformer's sizes: the nearest one, from its own folder up to the place's."""
    folder = part.path if part.path.is_dir() else part.path.parent
    for above in (folder, *folder.parents):
        if (above / CONFIG).is_file():
            return above / CONFIG
        if above in places or not any(place in above.parents for place in places):
            return None
    return None


def _about(config: Path, part: Part) -> bool:
    """Whether a config.json is about a transformer and not about one that a training checkpoint began from."""
    return config.parent == part.path or (config.parent == part.path.parent and part.path.name.startswith(DIFFUSERS))


def _asked_for(known: Sequence[Candidate], path: Path) -> Candidate:
    for each in known:
        if path in (each.part.path, each.part.path.parent):
            return each
    them = ", ".join(str(each.part.path) for each in known) or "none"
    raise InvalidConfig(f"wan.transformer: there is no transformer at {path}; there are {them}")


def _vae_sizes(variant: Variant, part: Part) -> VaeSizes:
    """Raises WeightsMismatch for weights that are no VAE's, or of one whose latents are not the transformer's."""
    with about(part.path):
        sizes = vae_sizes(part.shapes)
    got, wanted = (sizes.channels, sizes.pixels, sizes.pictures), (variant.backbone.out_channels, PIXELS, PICTURES)
    if got != wanted:
        raise WeightsMismatch(
            f"{part.path} has latent cells of {got} channels, pixels a side and pictures, {variant.name} of {wanted}"
        )
    return sizes


def _check_encoder(variant: Variant, parts: Mapping[Kind, Part]) -> None:
    """Raises WeightsMismatch for an encoder whose tokens are not what the transformer attends to, or whose tokenizer is
    none; WeightsMissing for one that went meanwhile."""
    context = variant.backbone.context
    part = parts[context.kind]
    with about(part.path):
        if context.kind == "text":
            sizes = text.text_sizes(part.shapes)
            got, wanted = [sizes.width], [context.width]
        else:
            seen = image.image_sizes(part.shapes)
            got, wanted = [seen.tokens, seen.width], [context.tokens, context.width]
    if got != wanted:
        raise WeightsMismatch(f"{part.path} gives tokens {got} where {variant.name} attends to {wanted}")
    if context.kind == "text":
        text.load_tokenizer(parts["tokenizer"].path, sizes.vocabulary)


def _shifted(variant: Variant, settings: WanSettings) -> Variant:
    if settings.shift is None:
        return variant
    if variant.name not in SHIFTED:
        raise InvalidConfig(f"wan.shift = {settings.shift}: {variant.name} has none")
    return replace(variant, levels=SHIFTED[variant.name](settings.shift).levels)
