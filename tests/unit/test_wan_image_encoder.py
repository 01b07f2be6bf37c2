"""The image encoder: what transformers makes of an original file, against the encoder written from its definition."""

from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.wan_encoders_small import image_shapes, image_weights
from services.generator.adapters.wan.encoders.image import HEADS, MEAN, STD, ImageEncoder, image_sizes, load_image
from worldkv.errors import WeightsMismatch

WIDTH, TOKENS, LAYERS, PATCH = 32, 10, 3, 4
SIDE = 3 * PATCH


def weights(seed: int = 0) -> dict[str, Tensor]:
    return image_weights(WIDTH, TOKENS, LAYERS, patch=PATCH, seed=seed)


def written(folder: Path, of: dict[str, Tensor]) -> ImageEncoder:
    torch.save(of, folder / "clip.pth")
    return load_image(folder / "clip.pth")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    return written(tmp_path_factory.mktemp("image"), weights())


def layer_norm(x: Tensor, of: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / spread * of[f"{name}.weight"] + of[f"{name}.bias"]


def linear(x: Tensor, of: dict[str, Tensor], name: str) -> Tensor:
    return x @ of[f"{name}.weight"].T + of[f"{name}.bias"]


def by_definition(file: dict[str, Tensor], picture: Tensor) -> Tensor:
    """Tokens of a picture that has the encoder's own size, one head at a time, float64; all blocks but the last."""
    of = {name.removeprefix("visual."): each.double() for name, each in file.items()}
    pixels = (picture.double() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    kernel = of["patch_embedding.weight"].flatten(1)
    corners = [(row, column) for row in range(0, SIDE, PATCH) for column in range(0, SIDE, PATCH)]
    patches = torch.stack([pixels[:, r : r + PATCH, c : c + PATCH].flatten() for r, c in corners])
    x = torch.cat([of["cls_embedding"][0], patches @ kernel.T]) + of["pos_embedding"][0]
    x = layer_norm(x, of, "pre_norm")
    for layer in range(LAYERS - 1):
        block = {n.removeprefix(f"transformer.{layer}."): w for n, w in of.items() if f"transformer.{layer}." in n}
        q, k, v = linear(layer_norm(x, block, "norm1"), block, "attn.to_qkv").split(WIDTH, 1)
        size, attended = WIDTH // HEADS, torch.empty_like(q)
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / size**0.5
            attended[:, part] = torch.softmax(scores, -1) @ v[:, part]
        x = x + linear(attended, block, "attn.proj")
        h = linear(layer_norm(x, block, "norm2"), block, "mlp.0")
        x = x + linear(0.5 * h * (1 + torch.erf(h / 2**0.5)), block, "mlp.2")
    return x


def test_an_original_file_is_computed_as_it_is_defined(encoder):
    picture = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    got, wanted = encoder(picture), by_definition(weights(), picture)
    assert got.shape == wanted.shape == (encoder.tokens, encoder.width) == (TOKENS, WIDTH)
    assert (got - wanted).norm() / wanted.norm() <= 1e-5


def test_every_weight_of_all_blocks_but_the_last_matters(encoder, tmp_path):
    picture = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    plain, alike = encoder(picture), set[str]()
    for name in weights():
        changed = weights()
        # A bias that all keys have in common changes no attention: each third of the joined ones is changed by itself.
        changed[name] = changed[name].flip(-1) * 1.5 + 0.3 * torch.arange(
            changed[name].shape[-1] if name.count(".") else 1
        )
        if torch.equal(written(tmp_path, changed)(picture), plain):
            alike.add(name)
    last = {name for name in weights() if f"transformer.{LAYERS - 1}." in name}
    unused = {"visual.post_norm.weight", "visual.post_norm.bias", "visual.head", "log_scale"}
    assert alike == last | unused | {"textual.token_embedding.weight"}


def test_a_picture_of_any_shape_is_brought_to_a_square(encoder):
    """A picture of one colour is that colour, and what is smooth stays near what it is at the encoder's own size."""
    grey = torch.full((3, 17, 40), 0.3)
    assert torch.allclose(encoder(grey), encoder(grey[:, :SIDE, :SIDE]), atol=1e-5)
    rows, columns = (np.linspace(0, 1, n, dtype=np.float32) for n in (96, 96))
    smooth = torch.from_numpy(np.stack([np.add.outer(rows, columns) / 2] * 3))
    small = smooth.unfold(1, 8, 8).unfold(2, 8, 8).mean((-1, -2))
    assert (encoder(smooth) - encoder(small)).norm() / encoder(small).norm() < 0.02


def test_sizes_are_read_off_the_shapes_and_shapes_are_strict():
    shapes = {name: tuple(each.shape) for name, each in weights().items()}
    sizes = image_sizes(shapes)
    assert (sizes.width, sizes.tokens, sizes.layers, sizes.patch, sizes.side) == (WIDTH, TOKENS, LAYERS, PATCH, SIDE)
    lost = {name: shape for name, shape in shapes.items() if name != "visual.transformer.1.norm2.bias"}
    odd = {name: tuple(each.shape) for name, each in image_weights(WIDTH, 11, LAYERS).items()}
    thin = {name: tuple(each.shape) for name, each in image_weights(24, TOKENS, LAYERS).items()}
    for wrong, named in (
        (shapes | {"visual.transformer.1.mlp.2.weight": (WIDTH, 7)}, r"transformer.1.mlp.2.weight: \(32, 7\)"),
        (lost, "transformer.1.norm2.bias: None"),
        (shapes | {"visual.extra": (3,)}, "extra"),
        (odd, "square of tokens"),
        (thin, "16 heads"),
        ({}, "no image encoder"),
        ({"visual.cls_embedding": (3,)}, "no image encoder"),
    ):
        with pytest.raises(WeightsMismatch, match=named):
            image_sizes(wrong)


def test_the_published_encoder_is_one_of_them():
    shapes = image_shapes(1280, 257, 32, 5120, 14, 1024)
    sizes = image_sizes(shapes)
    assert (sizes.width, sizes.tokens, sizes.side) == (1280, 257, 224)
    assert sum(map(prod, shapes.values())) == 632_076_800
