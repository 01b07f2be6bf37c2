"""The text encoder: UMT5 of Wan 2.1, from its original file.

Transformers computes it; the file's names are its own, and are brought to those of Transformers here. Heads, layers and
widths are read off the shapes, so that any size will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from services.generator.adapters.wan.files import Shape, Stored, about, differences, made, shapes, stored, told
from worldkv.errors import WeightsMismatch, WeightsMissing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
END = "</s>"
"""The token that every prompt ends with."""
STRANGE = f"a{chr(0xE0001)}"
"""Words that no vocabulary holds: what is made of them has to be in it all the same."""
PANICS = "pyo3_runtime"
"""The module of what a library in Rust raises where it gives up: a class that no module exports."""
TOP = {"token_embedding.weight": "embed_tokens.weight", "norm.weight": "final_layer_norm.weight"}
"""Names outside the blocks: in the file, and in Transformers."""
BLOCK = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
"""Names inside one."""


class TextSizes(NamedTuple):
    """What a text encoder is made of.

    vocabulary  tokens that it knows
    width       channels of a token
    ffn         channels inside a block
    inner       channels of all heads of an attention
    heads, layers
    buckets     distances between tokens that are told apart, both ways together
    """

    vocabulary: int
    width: int
    ffn: int
    inner: int
    heads: int
    layers: int
    buckets: int


def text_sizes(given: Mapping[str, Shape]) -> TextSizes:
    """What an encoder is made of, from names and shapes as they stand in its file: all of them have to be right.

    Raises WeightsMismatch, naming the first that differ.
    """
    try:
        vocabulary, width = given["token_embedding.weight"]
        sizes = TextSizes(
            vocabulary,
            width,
            ffn=given["blocks.0.ffn.fc1.weight"][0],
            inner=given["blocks.0.attn.q.weight"][0],
            heads=given["blocks.0.pos_embedding.embedding.weight"][1],
            layers=sum(name.endswith(".attn.q.weight") for name in given),
            buckets=given["blocks.0.pos_embedding.embedding.weight"][0],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsMismatch(f"these are no text encoder's weights: {len(given)} of them, {error!r}") from error
    wanted = _wanted(sizes)
    if wrong := differences(wanted, given):
        raise WeightsMismatch(f"these are no text encoder's weights: {told(wrong, wanted, given)}")
    if not sizes.heads or sizes.inner % sizes.heads:
        raise WeightsMismatch(f"{sizes.inner} channels of a text encoder do not divide into its {sizes.heads} heads")
    return sizes


class TextEncoder:
    """Words to tokens.

    stack      of Transformers, with its weights
    tokenizer  cuts words into tokens, and ends them
    """

    def __init__(self, stack: Any, tokenizer: Tokenizer) -> None:
        self._stack, self._tokenizer = stack.eval().requires_grad_(False), tokenizer
        self.width = int(stack.embed_tokens.weight.shape[1])

    def count(self, words: str) -> int:
        """Tokens of these words, the one that ends them included."""
        return len(self._cut(words))

    def __call__(self, words: str) -> Tensor:
        """Tokens [n, width] in the dtype of the weights. On a CPU the published encoder takes seconds for them."""
        with torch.inference_mode():
            ids = torch.tensor([self._cut(words)], device=self._stack.embed_tokens.weight.device)
            encoded: Tensor = self._stack(input_ids=ids).last_hidden_state[0]
        return encoded.clone()

    def _cut(self, words: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(" ".join(words.split())).ids
        return ids


def load_text(
    path: Path, tokenizer: Path, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> TextEncoder:
    """The encoder of a file (`models_t5_umt5-xxl-enc-bf16.pth`), or of safetensors with the same names.

    tokenizer  folder with its `tokenizer.json`
    dtype      of the weights in memory, whatever they are stored as; float16 is too small for some of its sums

    Raises WeightsMissing for a file that is not there, WeightsMismatch for one that holds something else.
    """
    from transformers import UMT5Config, UMT5EncoderModel

    tensors = stored(path)
    with about(path):
        sizes = text_sizes(shapes(tensors))
    cut = load_tokenizer(tokenizer, sizes.vocabulary)
    config = UMT5Config(
        vocab_size=sizes.vocabulary,
        d_model=sizes.width,
        d_kv=sizes.inner // sizes.heads,
        d_ff=sizes.ffn,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        relative_attention_num_buckets=sizes.buckets,
    )
    stack, _ = made(lambda: UMT5EncoderModel(config).encoder, renamed(tensors), path, dtype, device)
    return TextEncoder(stack, cut)


def load_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """What cuts words into tokens, below `vocabulary`; raises as `load_text`."""
    from tokenizers import Tokenizer

    file = folder / TOKENIZER
    if not file.is_file():
        raise WeightsMissing(f"no tokenizer at {folder}: a folder with {TOKENIZER} is expected")
    with _Reading(file):
        tokenizer: Tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8", errors="replace"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ends = tokenizer.encode("").ids == [tokenizer.token_to_id(END)]
        tokenizer.encode(STRANGE)
        known = max(tokenizer.get_vocab().values(), default=-1) + 1
    if not ends:
        raise WeightsMismatch(f"{file} is not of this encoder: it does not end prompts with {END}")
    if not vocabulary // 2 < known <= vocabulary:  # an encoder has some rows more than there are tokens
        raise WeightsMismatch(f"{file} is not of this encoder: it knows {known} tokens, the encoder {vocabulary}")
    return tokenizer


class _Reading:
    """Tells of what the library for tokenizers raises of a file: no class of its own, but Exception itself, and panics.

    Both come from code that reads the file; whatever else is raised meanwhile is left alone.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Exception or (kind is not None and kind.__module__ == PANICS):
            raise WeightsMismatch(f"{self._file} is no tokenizer that can be used: {str(error)[:200]}") from error


def renamed(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """A file's tensors by the names that they have in Transformers."""
    return {_name(name): each for name, each in tensors.items()}


def _name(name: str) -> str:
    if name in TOP:
        return TOP[name]
    _, layer, rest = name.split(".", 2)
    return f"block.{layer}.{BLOCK[rest]}"


def _wanted(sizes: TextSizes) -> dict[str, Shape]:
    """Names of the file, and shapes."""
    width, ffn, inner = sizes.width, sizes.ffn, sizes.inner
    of_block: dict[str, Shape] = dict.fromkeys(BLOCK, (inner, width)) | {
        "norm1.weight": (width,),
        "norm2.weight": (width,),
        "attn.o.weight": (width, inner),
        "pos_embedding.embedding.weight": (sizes.buckets, sizes.heads),
        "ffn.gate.0.weight": (ffn, width),
        "ffn.fc1.weight": (ffn, width),
        "ffn.fc2.weight": (width, ffn),
    }
    blocks = {f"blocks.{layer}.{name}": each for layer in range(sizes.layers) for name, each in of_block.items()}
    return {"token_embedding.weight": (sizes.vocabulary, width), "norm.weight": (width,)} | blocks
