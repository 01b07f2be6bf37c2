"""A causal Wan transformer over a whole clip at once: what drawing chunk by chunk with a cache must equal.

Written from the definition, on a state dict, in float64: no cache, no window, no chunk-local time, one sequence of all
frames under a mask, attention as a plain softmax. Shares no layer with the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from services.generator.adapters.wan.config import WanConfig
from worldkv.rope import Rope


class Clip(NamedTuple):
    """A clip and what is told of it; F frames, S tokens of a frame.

    latents   [F, in_channels, height, width]
    time      [F] in 0..1000
    context   [T, width] of the encoder
    rays      [F, S, channels] folded, or None
    mouse     [F, rows * axes], keyboard [F, rows, keys], or None
    """

    latents: Tensor
    time: Tensor
    context: Tensor
    rays: Tensor | None = None
    mouse: Tensor | None = None
    keyboard: Tensor | None = None


class WanClip:
    """The transformer of a config with these weights, under the names of the published files."""

    def __init__(self, config: WanConfig, weights: Mapping[str, Tensor]) -> None:
        self.config = config
        self.weights = {name: weight.double() for name, weight in weights.items()}

    @torch.inference_mode()
    def flow(self, clip: Clip) -> Tensor:
        """Predicted flow [F, channels, height, width] float64; each chunk sees itself and all chunks before it."""
        c, w = self.config, self.weights
        frames, _, height, width = clip.latents.shape
        grid = (frames, height // c.patch, width // c.patch)
        cells = clip.latents.double().unfold(2, c.patch, c.patch).unfold(3, c.patch, c.patch)
        kernel = w["patch_embedding.weight"][:, :, 0]
        x = torch.einsum("fcrsuv,dcuv->frsd", cells, kernel) + w["patch_embedding.bias"]
        x = x.flatten(1, 2)
        half = c.sinusoid // 2
        angle = clip.time.double()[:, None] / c.period ** (torch.arange(half).double() / half)
        time = self._linear(torch.cat([angle.cos(), angle.sin()], 1), "time_embedding.0")
        time = self._linear(functional.silu(time), "time_embedding.2")
        time_6 = self._linear(functional.silu(time), "time_projection.1").view(frames, 6, c.dim)
        context, camera = self._context(clip.context), self._camera(clip.rays)
        turn = _turns(c.rope, *grid)
        chunk = torch.arange(frames) // c.frames
        sees = chunk[:, None] >= chunk
        for i in range(c.layers):
            name = f"blocks.{i}"
            shift, scale, gate, shift_2, scale_2, gate_2 = (time_6 + w[f"{name}.modulation"]).unbind(1)
            h = _norm(x, c.eps) * (1 + scale[:, None]) + shift[:, None]
            x = x + gate[:, None] * self._attend(f"{name}.self_attn", h, h, turn, sees)
            if camera is not None:
                x = self._guide(name, x, camera)
            h = _norm(x, c.eps) * w[f"{name}.norm3.weight"] + w[f"{name}.norm3.bias"]
            x = x + self._attend(f"{name}.cross_attn", h, context[None], None, None)
            if c.actions and i < c.actions.layers:
                x = self._act(f"{name}.action_model", x, clip)
            h = _norm(x, c.eps) * (1 + scale_2[:, None]) + shift_2[:, None]
            h = functional.gelu(self._linear(h, f"{name}.ffn.0"), approximate="tanh")
            x = x + gate_2[:, None] * self._linear(h, f"{name}.ffn.2")
        shift, scale = (time[:, None] + w["head.modulation"]).unbind(1)
        y = self._linear(_norm(x, c.eps) * (1 + scale[:, None]) + shift[:, None], "head.head")
        y = y.view(*grid, c.patch, c.patch, c.out_channels)
        return torch.einsum("frsuvc->fcrusv", y).reshape(frames, c.out_channels, height, width)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _context(self, tokens: Tensor) -> Tensor:
        tokens = tokens.double()
        if self.config.context.kind == "text":
            hidden = functional.gelu(self._linear(tokens, "text_embedding.0"), approximate="tanh")
            return self._linear(hidden, "text_embedding.2")
        h = self._layer_norm(tokens, "img_emb.proj.0")
        h = self._linear(functional.gelu(self._linear(h, "img_emb.proj.1")), "img_emb.proj.3")
        return self._layer_norm(h, "img_emb.proj.4")

    def _layer_norm(self, x: Tensor, name: str) -> Tensor:
        return _norm(x, 1e-5) * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _camera(self, rays: Tensor | None) -> Tensor | None:
        if rays is None:
            return None
        h = self._linear(rays.double(), "patch_embedding_wancamctrl")
        hidden = functional.silu(self._linear(h, "c2ws_hidden_states_layer1"))
        return h + self._linear(hidden, "c2ws_hidden_states_layer2")

    def _guide(self, name: str, x: Tensor, camera: Tensor) -> Tensor:
        hidden = functional.silu(self._linear(camera, f"{name}.cam_injector_layer1"))
        h = camera + self._linear(hidden, f"{name}.cam_injector_layer2")
        return (1 + self._linear(h, f"{name}.cam_scale_layer")) * x + self._linear(h, f"{name}.cam_shift_layer")

    def _attend(self, name: str, x: Tensor, to: Tensor, turn: Tensor | None, sees: Tensor | None) -> Tensor:
        """x [F, S, D] to [F or 1, tokens, D]; sees [F, F]: which frames see which."""
        heads = self.config.heads
        q = (_rms(self._linear(x, f"{name}.q"), self.config.eps) * self.weights[f"{name}.norm_q.weight"]).flatten(0, 1)
        k = (_rms(self._linear(to, f"{name}.k"), self.config.eps) * self.weights[f"{name}.norm_k.weight"]).flatten(0, 1)
        v = self._linear(to, f"{name}.v").flatten(0, 1).unflatten(-1, (heads, -1))
        q, k = q.unflatten(-1, (heads, -1)), k.unflatten(-1, (heads, -1))
        if turn is not None:
            q, k = _turned(q, turn), _turned(k, turn)
        if sees is not None:
            sees = sees.repeat_interleave(x.shape[1], 0).repeat_interleave(x.shape[1], 1)
        return self._linear(_softmax(q, k, v, sees).flatten(1), f"{name}.o").view(x.shape)

    def _act(self, name: str, x: Tensor, clip: Clip) -> Tensor:
        a, w = self.config.actions, self.weights
        assert a, "a config without action modules has no such weights"
        assert clip.mouse is not None, "a clip of this model says what the mouse did"
        assert clip.keyboard is not None, "and the keyboard"
        frames, places, _ = x.shape
        at = torch.arange(frames)
        end = (at // self.config.frames + 1) * self.config.frames
        sees = (at[None] < end[:, None]) & (at[None] >= end[:, None] - a.window)
        turn = at.double()[:, None, None] * a.rope.theta ** (-torch.arange(a.rope.time).double() / a.rope.time)
        split = (a.heads, a.head_dim)
        if a.mouse:
            moved = clip.mouse.double()[:, None].expand(-1, places, -1)
            h = self._linear(torch.cat([x, moved], -1), f"{name}.mouse_mlp.0")
            h = self._linear(functional.gelu(h, approximate="tanh"), f"{name}.mouse_mlp.2")
            h = functional.linear(self._layer_norm(h, f"{name}.mouse_mlp.3"), w[f"{name}.t_qkv.weight"])
            q, k, v = (y.unflatten(-1, split) for y in h.chunk(3, -1))
            q, k = _rms(q, a.eps), _rms(k, a.eps)
            seen = [
                _softmax(_turned(q[:, s], turn), _turned(k[:, s], turn), v[:, s], sees).flatten(1)
                for s in range(places)
            ]
            x = x + self._linear(torch.stack(seen, 1), f"{name}.proj_mouse")
        held = self._linear(clip.keyboard.double(), f"{name}.keyboard_embed.0")
        held = self._linear(functional.silu(held), f"{name}.keyboard_embed.2").flatten(1)
        k, v = (y.unflatten(-1, split) for y in self._linear(held, f"{name}.keyboard_attn_kv").chunk(2, -1))
        k = _turned(_rms(k, a.eps), turn)
        q = _rms(self._linear(x, f"{name}.mouse_attn_q").unflatten(-1, split), a.eps)
        seen = [_softmax(_turned(q[:, s], turn), k, v, sees).flatten(1) for s in range(places)]
        return x + self._linear(torch.stack(seen, 1), f"{name}.proj_keyboard")


def _norm(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()


def _rms(x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def _softmax(q: Tensor, k: Tensor, v: Tensor, sees: Tensor | None) -> Tensor:
    """q [N, H, K] to k and v [M, H, K], sees [N, M]."""
    weight = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    if sees is not None:
        weight = weight.masked_fill(~sees, -torch.inf)
    return torch.einsum("hqk,khd->qhd", weight.softmax(-1), v)


def _turns(rope: Rope, frames: int, rows: int, columns: int) -> Tensor:
    """Angle of every channel pair of every token, [tokens, 1, pairs]."""
    at = torch.cartesian_prod(*(torch.arange(n).double() for n in (frames, rows, columns)))
    axes = zip(at.T, (rope.time, rope.height, rope.width), strict=True)
    return torch.cat([t[:, None] / rope.theta ** (torch.arange(n).double() / n) for t, n in axes], 1)[:, None]


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """x [..., channels] with its leading pairs of channels turned."""
    pairs = x[..., : 2 * angle.shape[-1]]
    even, odd = pairs[..., 0::2], pairs[..., 1::2]
    turned = torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1)
    return torch.cat([turned.flatten(-2), x[..., pairs.shape[-1] :]], -1)
