"""The text encoder: what transformers makes of an original file, against the encoder written from its definition."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.wan_encoders_small import VOCABULARY, text_shapes, text_weights, write_tokenizer
from services.generator.adapters.wan.encoders.text import TextEncoder, load_text, text_sizes
from worldkv.errors import WeightsMismatch, WeightsMissing

WIDTH, HEADS, LAYERS = 32, 4, 2
FAR = 128
"""Tokens apart beyond which all distances are one."""


def written(folder: Path, weights: dict[str, Tensor]) -> TextEncoder:
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / "t5.pth")
    write_tokenizer(folder / "tokenizer")
    return load_text(folder / "t5.pth", folder / "tokenizer", torch.float32)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return written(tmp_path_factory.mktemp("text"), text_weights(WIDTH, HEADS, LAYERS))


def bucket(apart: int, buckets: int) -> int:
    """Of a token so many behind (above 0) or before the one that looks: half for each, small distances one by one,
    larger ones by their logarithm."""
    half, away = buckets // 2, abs(apart)
    single = half // 2
    if away >= single:
        log = math.log(away / single) / math.log(FAR / single)
        away = min(half - 1, single + int(log * (half - single)))
    return away + (half if apart > 0 else 0)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def by_definition(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Tokens of an encoder, one query at a time, float64."""
    w = {name: each.double() for name, each in weights.items()}
    x = w["token_embedding.weight"][ids]
    for layer in range(LAYERS):
        of = {n.removeprefix(f"blocks.{layer}."): each for n, each in w.items() if n.startswith(f"blocks.{layer}.")}
        h = rms(x, of["norm1.weight"])
        q, k, v = (h @ of[f"attn.{name}.weight"].T for name in "qkv")
        bias, size = of["pos_embedding.embedding.weight"], q.shape[1] // HEADS
        attended = torch.empty_like(q)
        for at in range(len(ids)):
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                apart = torch.stack([bias[bucket(other - at, len(bias)), head] for other in range(len(ids))])
                attended[at, part] = torch.softmax(k[:, part] @ q[at, part] + apart, 0) @ v[:, part]
        x = x + attended @ of["attn.o.weight"].T
        h = rms(x, of["norm2.weight"])
        gate = h @ of["ffn.gate.0.weight"].T
        gate = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        x = x + (gate * (h @ of["ffn.fc1.weight"].T)) @ of["ffn.fc2.weight"].T
    return rms(x, w["norm.weight"])


@pytest.mark.parametrize("words", ["", "a harbour at dawn", " ".join(["stone", "a", "dusk"] * 45)])
def test_an_original_file_is_computed_as_it_is_defined(encoder, words):
    weights = text_weights(WIDTH, HEADS, LAYERS)
    known = {"a": 2, "harbour": 3, "at": 5, "dawn": 6, "dusk": 7, "stone": 8}
    wanted = by_definition(weights, [known[word] for word in words.split()] + [0])
    got = encoder(words)
    assert got.shape == wanted.shape == (encoder.count(words), WIDTH)
    assert (got - wanted).norm() / wanted.norm() <= 1e-5


@pytest.mark.parametrize("name", sorted(text_weights(WIDTH, HEADS, LAYERS)))
def test_every_weight_matters(encoder, tmp_path, name):
    weights = text_weights(WIDTH, HEADS, LAYERS)
    weights[name] = weights[name].flip(0) * 1.5
    words = "a harbour at dawn a desert at dusk"
    assert (written(tmp_path, weights)(words) - encoder(words)).abs().max() > 1e-4


def test_how_words_are_spaced_does_not_matter(encoder):
    assert torch.equal(encoder("  a harbour\n at\tdawn "), encoder("a harbour at dawn"))
    assert encoder.count(" a  harbour ") == 3


def test_half_precision_is_carried_through(encoder, tmp_path):
    folder = tmp_path / "half"
    written(folder, text_weights(WIDTH, HEADS, LAYERS))
    half = load_text(folder / "t5.pth", folder / "tokenizer", torch.bfloat16)("a harbour")
    assert half.dtype == torch.bfloat16
    assert (half - encoder("a harbour")).norm() / half.norm() < 0.05


def test_sizes_are_read_off_the_shapes_and_shapes_are_strict():
    shapes = {name: tuple(each.shape) for name, each in text_weights(WIDTH, HEADS, LAYERS).items()}
    assert text_sizes(shapes)._asdict() == {
        "vocabulary": VOCABULARY,
        "width": WIDTH,
        "ffn": 24,
        "inner": WIDTH,
        "heads": HEADS,
        "layers": LAYERS,
        "buckets": 32,
    }
    lost = {name: shape for name, shape in shapes.items() if name != "blocks.1.norm2.weight"}
    for wrong, named in (
        (shapes | {"blocks.1.ffn.fc2.weight": (WIDTH, 7)}, r"blocks.1.ffn.fc2.weight: \(32, 7\)"),
        (lost, "blocks.1.norm2.weight: None"),
        (shapes | {"lm_head.weight": (3, 3)}, "lm_head"),
        (shapes | {f"blocks.{n}.pos_embedding.embedding.weight": (32, 5) for n in range(2)}, "5 heads"),
        ({}, "no text encoder"),
        ({"token_embedding.weight": ()}, "no text encoder"),
    ):
        with pytest.raises(WeightsMismatch, match=named):
            text_sizes(wrong)


def test_the_published_encoder_is_one_of_them():
    shapes = text_shapes(4096, 64, 24, 10240, 256_384)
    assert text_sizes(shapes) == (256_384, 4096, 10240, 4096, 64, 24, 32)
    assert sum(map(math.prod, shapes.values())) == 5_680_910_336


def test_a_tokenizer_is_of_its_encoder(tmp_path):
    weights = text_weights(WIDTH, HEADS, LAYERS)
    torch.save(weights, tmp_path / "t5.pth")
    with pytest.raises(WeightsMissing, match=r"tokenizer\.json"):
        load_text(tmp_path / "t5.pth", tmp_path)
    file = tmp_path / "tokenizer.json"
    write_tokenizer(tmp_path)
    good = file.read_text()
    table = json.loads(good)
    model, post = table["model"], table["post_processor"]
    few = {word: number for word, number in model["vocab"].items() if number < 8}
    for wrong, words in (
        ({}, "no tokenizer"),
        ([], "no tokenizer"),
        (table | {"model": model | {"type": "Nobody's"}}, "no tokenizer"),
        (table | {"model": model | {"vocab": ["a"]}}, "no tokenizer"),
        (table | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "no tokenizer"),
        (table | {"post_processor": post | {"special_tokens": {}}}, "no tokenizer"),
        (table | {"model": model | {"unk_token": "<nobody>"}}, "no tokenizer"),
        (table | {"model": {"type": "Unigram", "vocab": [["</s>", 0.0]], "unk_id": None}}, "no tokenizer"),
        (table | {"post_processor": None}, "does not end"),
        (table | {"model": model | {"vocab": model["vocab"] | {"far": 16}}}, "knows 17 tokens, the encoder 16"),
        (table | {"model": model | {"vocab": few}}, "knows 8 tokens, the encoder 16"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(WeightsMismatch, match=rf"tokenizer\.json .*{words}"):
            load_text(tmp_path / "t5.pth", tmp_path)
    for length in (0, 100, len(good) - 1):
        file.write_text(good[:length])
        with pytest.raises(WeightsMismatch, match=r"tokenizer\.json is no tokenizer"):
            load_text(tmp_path / "t5.pth", tmp_path)
    file.write_text(good)
    small = weights | {"token_embedding.weight": weights["token_embedding.weight"][:4]}
    torch.save(small, tmp_path / "t5.pth")
    with pytest.raises(WeightsMismatch, match="knows 10 tokens, the encoder 4"):
        load_text(tmp_path / "t5.pth", tmp_path)
