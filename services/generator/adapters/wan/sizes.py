"""The sizes that a transformer's `config.json` states, under the published names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from services.generator.adapters.wan.config import ActionConfig, WanConfig
from worldkv.errors import WeightsMismatch
from worldkv.rope import Rope

CONFIG = "config.json"
PLAIN_CLASS = "WanModel"
"""`_class_name` of the models that the family grew from: they draw whole clips, and no chunk after another."""


@dataclass(frozen=True)
class Sizes:
    """What is stated; what is not is None, and as in the published model.

    dim, ffn, heads, layers  of the transformer
    sinusoid                 channels of the time embedding
    tokens                   of a prompt
    act_heads, act_hidden, act_embedding, act_layers  of the action modules
    plain                    whether the file says that it is a model of whole clips
    """

    dim: int | None = None
    ffn: int | None = None
    heads: int | None = None
    layers: int | None = None
    sinusoid: int | None = None
    tokens: int | None = None
    act_heads: int | None = None
    act_hidden: int | None = None
    act_embedding: int | None = None
    act_layers: int | None = None
    plain: bool = False

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises WeightsMismatch for a file that is no table of numbers."""
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
            acts = table.get("action_config") or {}
            return cls(
                dim=_number(table, "dim"),
                ffn=_number(table, "ffn_dim"),
                heads=_number(table, "num_heads"),
                layers=_number(table, "num_layers"),
                sinusoid=_number(table, "freq_dim"),
                tokens=_number(table, "text_len"),
                act_heads=_number(acts, "heads_num"),
                act_hidden=_number(acts, "keyboard_hidden_dim"),
                act_embedding=_number(acts, "hidden_size"),
                act_layers=len(acts["blocks"]) if "blocks" in acts else None,
                plain=table.get("_class_name") == PLAIN_CLASS,
            )
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise WeightsMismatch(f"{file} states no sizes: {error!r}") from error

    def of(self, config: WanConfig, width: int) -> WanConfig:
        """A transformer at these sizes.

        width  of the encoder's tokens

        Raises InvalidConfig for sizes that do not go together.
        """
        dim, heads = self.dim or config.dim, self.heads or config.heads
        layers = self.layers or config.layers
        # Of pictures there are as many tokens as the encoder gives, whatever a config says of text.
        tokens = self.tokens if config.context.kind == "text" else None
        return replace(
            config,
            dim=dim,
            ffn=self.ffn or config.ffn,
            heads=heads,
            layers=layers,
            sinusoid=self.sinusoid or config.sinusoid,
            rope=rope(dim // heads, config.rope.theta),
            context=replace(config.context, width=width, tokens=tokens or config.context.tokens),
            actions=config.actions and self._acts(config.actions, layers),
        )

    def _acts(self, config: ActionConfig, layers: int) -> ActionConfig:
        return replace(
            config,
            layers=min(layers, self.act_layers or config.layers),
            heads=self.act_heads or config.heads,
            hidden=self.act_hidden or config.hidden,
            embedding=self.act_embedding or config.embedding,
        )


def rope(head_dim: int, theta: float) -> Rope:
    """How the family splits the pairs of a head: a third each, rounded down, to height and width, the rest to time."""
    side = head_dim // 6
    return Rope(time=head_dim // 2 - 2 * side, height=side, width=side, theta=theta)


def _number(table: Mapping[str, Any], key: str) -> int | None:
    value = table.get(key)
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{key} = {value!r}")
    return value
