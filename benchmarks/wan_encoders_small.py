"""The encoders of published models at a tiny size, with random weights, under the names of their original files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from services.generator.adapters.wan.files import Shape

WORDS = ("</s>", "<unk>", "a", "harbour", "desert", "at", "dawn", "dusk", "stone", "forest")
"""What the tiny tokenizer knows, the token that ends a prompt first."""
VOCABULARY = 16
"""Tokens that the tiny text encoder has room for."""
BUCKETS = 32


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words, in a folder as published ones are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    end, unknown, *_ = WORDS
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {end}", special_tokens=[(end, 0)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def text_shapes(
    width: int, heads: int = 4, layers: int = 2, ffn: int = 24, vocabulary: int = VOCABULARY
) -> dict[str, Shape]:
    """Names and shapes of a text encoder; an attention has as many channels as a token."""
    shapes: dict[str, Shape] = {"token_embedding.weight": (vocabulary, width), "norm.weight": (width,)}
    for layer in range(layers):
        block = f"blocks.{layer}."
        shapes |= {f"{block}attn.{name}.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{block}norm{number}.weight": (width,) for number in (1, 2)}
        shapes |= {f"{block}ffn.{name}.weight": (ffn, width) for name in ("gate.0", "fc1")}
        shapes |= {f"{block}ffn.fc2.weight": (width, ffn)}
        shapes |= {f"{block}pos_embedding.embedding.weight": (BUCKETS, heads)}
    return shapes


def text_weights(width: int, heads: int = 4, layers: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Of a text encoder."""
    return _random(text_shapes(width, heads, layers), seed)


def image_shapes(
    width: int, tokens: int = 257, layers: int = 3, ffn: int = 24, patch: int = 2, out: int = 8
) -> dict[str, Shape]:
    """Names and shapes of an image encoder; sixteen heads divide the width."""
    shapes: dict[str, Shape] = {
        "patch_embedding.weight": (width, 3, patch, patch),
        "cls_embedding": (1, 1, width),
        "pos_embedding": (1, tokens, width),
        "head": (width, out),
    }
    norms = ["pre_norm", "post_norm"]
    for layer in range(layers):
        block = f"transformer.{layer}."
        norms += [f"{block}norm1", f"{block}norm2"]
        for name, rows, columns in (
            ("attn.to_qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.0", ffn, width),
            ("mlp.2", width, ffn),
        ):
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
    shapes |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    return {f"visual.{name}": shape for name, shape in shapes.items()}


def image_weights(width: int, tokens: int = 257, layers: int = 3, patch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Of an image encoder, and of what reads text beside it."""
    rest = {"log_scale": torch.zeros(()), "textual.token_embedding.weight": torch.zeros(4, width)}
    return _random(image_shapes(width, tokens, layers, patch=patch), seed) | rest


def _random(shapes: dict[str, Shape], seed: int) -> dict[str, Tensor]:
    """Weights every one of which matters: norms are near one, the rest as wide as keeps a token's size."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        norm = "norm" in name and name.endswith("weight")
        weights[name] = 1 + 0.2 * drawn if norm else drawn / (shape[-1] ** 0.5 if len(shape) == 2 else 3)
    return weights
