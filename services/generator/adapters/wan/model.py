"""The causal Wan transformer: one pass over a chunk against a memory that is given.

What the memory holds, and how long, is decided before the pass (`worldkv.window`). A pass looks at nothing on the host
and at no value of a tensor, so that it can be compiled, and captured as a CUDA graph where shapes stay the same.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.generator.adapters.wan.actions import ActionPast, Acts
from services.generator.adapters.wan.block import Block, Sight
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.layers import Head, Pair
from services.generator.adapters.wan.rotation import Turns


class Passed(NamedTuple):
    """What a pass gives.

    flow  [B, F, channels, height, width]: the noise less the clean latents, as the model sees them
    kv    the chunk's own keys, in chunk-local time, and values, each [layers, B, N, H, K]; None unless asked for
    acts  what its own frames left in the action modules, see `ActionPast`; None unless asked for, or without modules
    """

    flow: Tensor
    kv: Pair | None
    acts: ActionPast | None


class ImageEmbedding(nn.Module):
    """CLIP's tokens brought to the width of the model."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim), nn.LayerNorm(dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(tokens)


class WanModel(nn.Module):
    """Patches to flow. Weights stand under the names that they have in the published files."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = c = config
        dim, corner = c.dim, (1, c.patch, c.patch)
        self.patch_embedding = nn.Conv3d(c.in_channels, dim, corner, corner)
        if c.context.kind == "text":
            self.text_embedding = nn.Sequential(nn.Linear(c.context.width, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        else:
            self.img_emb = ImageEmbedding(c.context.width, dim)
        self.time_embedding = nn.Sequential(nn.Linear(c.sinusoid, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if c.camera:
            self.patch_embedding_wancamctrl = nn.Linear(c.camera.channels * c.patch**2, dim)
            self.c2ws_hidden_states_layer1, self.c2ws_hidden_states_layer2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.layers))
        self.head = Head(c)

    @property
    def layers(self) -> list[Block]:
        """The blocks, in order."""
        return cast(list[Block], list(self.blocks))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of keys and values."""
        return self.patch_embedding.weight.dtype

    def hear(self, tokens: Tensor) -> list[Pair]:
        """Keys and values of a context in each layer, [B, T, H, K]: tokens [B, T, width] of the encoder.

        They do not change while the context does not.
        """
        embed = self.text_embedding if self.config.context.kind == "text" else self.img_emb
        embedded = embed(tokens.to(self.dtype))
        return [block.cross_attn.pair(embedded) for block in self.layers]

    def look(self, rays: Tensor) -> list[Sight]:
        """What folded rays [B, F, S, channels * patch^2] do in each layer.

        It is the same in all passes of a chunk, and made once for them: as large as a chunk's keys and values, and a
        fifth of the linear layers' work in every pass otherwise.
        """
        embedded = self.patch_embedding_wancamctrl(rays.to(self.dtype))
        embedded = embedded + self.c2ws_hidden_states_layer2(functional.silu(self.c2ws_hidden_states_layer1(embedded)))
        return [block.sight(embedded) for block in self.layers]

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        turns: Turns,
        memory: Pair,
        valid: Tensor | None,
        context: list[Pair],
        camera: list[Sight] | None = None,
        acts: Acts | None = None,
        past: ActionPast | None = None,
        keep: bool = False,
    ) -> Passed:
        """One pass over a chunk.

        latents [B, F, in_channels, height, width] float32, time [B, F] in 0..1000
        turns   of `Rotation.at`
        memory  keys, already placed in time, and values, each [layers, B, M, H, K]
        valid   [B, M] bool: which memory tokens may be attended to; None means all
        context of `hear`; camera: of `look`; acts, past: what was done, and the past of all action modules
        keep    whether keys and values of the chunk are wanted
        """
        x, (embedded, time_6) = self._patches(latents), self._times(time)
        mask = None
        if valid is not None:
            own = valid.new_ones(len(x), x.shape[1] * x.shape[2])
            mask = torch.cat([valid, own], 1)[:, None, None]
        kv: Pair | None = None
        done: Pair | None = None
        for layer, block in enumerate(self.layers):
            by = block.modulate(time_6)
            x, pair = block.attend(x, by, turns, (memory[0][layer], memory[1][layer]), mask)
            if camera is not None:
                x = block.guide(x, camera[layer])
            x = block.listen(x, context[layer])
            if block.action_model is not None:
                assert acts is not None, "a model with action modules is told what was done"
                assert past is not None, "and what was done before"
                x, own_acts = block.action_model(x, acts, ActionPast(past.mouse[layer], past.keyboard[layer]))
                if keep:
                    done = _gathered(done, own_acts, layer, len(past.keyboard))
            x = block.feed(x, by)
            if keep:
                kv = _gathered(kv, pair, layer, len(self.blocks))
        return Passed(self._unpatched(self.head(x, embedded), latents), kv, done and ActionPast(*done))

    def _patches(self, latents: Tensor) -> Tensor:
        """The residual stream's first state [B, F, S, D]."""
        x = self.patch_embedding(latents.to(self.dtype).transpose(1, 2))
        return x.flatten(3).permute(0, 2, 3, 1).to(self._stream)

    def _times(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Time embedding [B, F, D] and modulation of the blocks [B, F, 6, D]."""
        c = self.config
        half = c.sinusoid // 2
        exponent = torch.arange(half, dtype=torch.float64, device=time.device) / half
        angle = time.double()[..., None] * c.period**-exponent
        embedded = self.time_embedding(torch.cat([angle.cos(), angle.sin()], -1).to(self.dtype))
        projected = self.time_projection(embedded).unflatten(-1, (6, c.dim))
        return embedded.to(self._stream), projected.to(self._stream)

    def _unpatched(self, patches: Tensor, like: Tensor) -> Tensor:
        """Latents [B, F, out_channels, height, width] float32 of patches [B, F, S, patch^2 * out_channels]."""
        c = self.config
        height, width = like.shape[-2:]
        grid = patches.float().view(*patches.shape[:2], height // c.patch, width // c.patch, c.patch, c.patch, -1)
        return grid.permute(0, 1, 6, 2, 4, 3, 5).reshape(*patches.shape[:2], c.out_channels, height, width)

    @property
    def _stream(self) -> torch.dtype:
        return torch.float32 if self.config.stream == "float32" else self.dtype


def _gathered(whole: Pair | None, own: tuple[Tensor, Tensor], layer: int, layers: int) -> Pair:
    """What all layers leave, in one tensor for each half, this layer's with it; in parts it would be there twice."""
    halves = whole or (own[0].new_empty(layers, *own[0].shape), own[1].new_empty(layers, *own[1].shape))
    for half, mine in zip(halves, own, strict=True):
        half[layer] = mine
    return halves
