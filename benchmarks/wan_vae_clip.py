"""The VAE of Wan 2.1 over a whole clip at once: what decoding chunk by chunk must equal.

Written from the definition, on the weights of the original file under their own names, in float64: no cache, all time
steps of a layer before the next layer, causal by padding. Shares no layer with the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
"""Of each channel of the published VAE's latents."""


Resample = Callable[[Tensor, str], Tensor]


class VAEClip:
    """The VAE with these weights; layers take and give [channels, time, height, width]."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = {name: weight.double() for name, weight in weights.items()}
        self.mean, self.std = (torch.tensor(each, dtype=torch.float64)[:, None, None, None] for each in (MEAN, STD))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [pictures, 3, height, width] in 0..1 of a clip of normalised latents [frames, channels, ...]."""
        x = self._conv(latents.double().transpose(0, 1) * self.std + self.mean, "conv2")
        x = self._middle(self._conv(x, "decoder.conv1"), "decoder.middle")
        x = self._head(self._row(x, "decoder.upsamples", self._up), "decoder.head")
        return ((x.transpose(0, 1) + 1) / 2).clamp(0, 1)

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Normalised latents [frames, channels, ...] of a clip of pictures [pictures, 3, height, width] in 0..1."""
        x = self._conv(pictures.double().transpose(0, 1) * 2 - 1, "encoder.conv1")
        x = self._middle(self._row(x, "encoder.downsamples", self._down), "encoder.middle")
        mean, _ = self._conv(self._head(x, "encoder.head"), "conv1").chunk(2)
        return ((mean - self.mean) / self.std).transpose(0, 1)

    def _conv(self, x: Tensor, name: str) -> Tensor:
        """Causal in time, as wide as it was in space."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        time, height, width = weight.shape[2:]
        x = functional.pad(x, (width // 2, width // 2, height // 2, height // 2, time - 1, 0))
        return functional.conv3d(x[None], weight, bias)[0]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x / x.pow(2).mean(0, keepdim=True).sqrt() * self.weights[f"{name}.gamma"].view(-1, 1, 1, 1)

    def _residual(self, x: Tensor, name: str) -> Tensor:
        h = self._conv(functional.silu(self._norm(x, f"{name}.residual.0")), f"{name}.residual.2")
        h = self._conv(functional.silu(self._norm(h, f"{name}.residual.3")), f"{name}.residual.6")
        return h + (self._conv(x, f"{name}.shortcut") if f"{name}.shortcut.weight" in self.weights else x)

    def _middle(self, x: Tensor, name: str) -> Tensor:
        x = self._residual(x, f"{name}.0")
        q, k, v = self._flat_conv(self._norm(x, f"{name}.1.norm"), f"{name}.1.to_qkv").flatten(2).chunk(3)
        scores = torch.einsum("cti,ctj->tij", q, k) / len(q) ** 0.5
        seen = torch.einsum("tij,ctj->cti", scores.softmax(-1), v).view(x.shape)
        return self._residual(x + self._flat_conv(seen, f"{name}.1.proj"), f"{name}.2")

    def _head(self, x: Tensor, name: str) -> Tensor:
        return self._conv(functional.silu(self._norm(x, f"{name}.0")), f"{name}.2")

    def _row(self, x: Tensor, name: str, resample: Resample) -> Tensor:
        at = 0
        while any(each.startswith(f"{name}.{at}.") for each in self.weights):
            block = f"{name}.{at}"
            x = resample(x, block) if f"{block}.resample.1.weight" in self.weights else self._residual(x, block)
            at += 1
        return x

    def _up(self, x: Tensor, name: str) -> Tensor:
        if f"{name}.time_conv.weight" in self.weights:
            # The first step stays one; all others become two, seeing only each other.
            earlier, later = self._conv(x[:, 1:], f"{name}.time_conv").chunk(2)
            x = torch.cat([x[:, :1], torch.stack([earlier, later], 2).flatten(1, 2)], 1)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self._flat_conv(functional.pad(x, (1, 1, 1, 1)), f"{name}.resample.1")

    def _down(self, x: Tensor, name: str) -> Tensor:
        x = self._flat_conv(functional.pad(x, (0, 1, 0, 1)), f"{name}.resample.1", stride=2)
        if f"{name}.time_conv.weight" in self.weights and x.shape[1] > 1:
            weight, bias = self.weights[f"{name}.time_conv.weight"], self.weights[f"{name}.time_conv.bias"]
            x = torch.cat([x[:, :1], functional.conv3d(x[None], weight, bias, stride=(2, 1, 1))[0]], 1)
        return x

    def _flat_conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """Of each time step by itself, unpadded."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.conv2d(x.transpose(0, 1), weight, bias, stride).transpose(0, 1)
