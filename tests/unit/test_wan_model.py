"""The transformer of the Wan models: names, sizes, parity with what shares nothing with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import models as benches
from benchmarks.wan_small import GRID, random_adapter, random_model, small
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.rotation import Rotation
from services.generator.adapters.wan.variants import LINGBOT_ACT, LINGBOT_CAM, MATRIX_GTA, SELF_FORCING, VARIANTS
from services.generator.world_model import Conditioning, Subject
from worldkv.errors import InvalidConfig
from worldkv.rope import place, rotate
from worldkv.window import Window


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = WanModel(VARIANTS[name].backbone)
    return {key: tuple(each.shape) for key, each in model.state_dict().items()}


def attention(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    weights: dict[str, tuple[int, ...]] = {f"{name}.{each}.weight": (dim, dim) for each in "qkvo"}
    biases = {f"{name}.{each}.bias": (dim,) for each in "qkvo"}
    return weights | biases | {f"{name}.norm_{each}.weight": (dim,) for each in "qk"}


def linear(name: str, wide: int, narrow: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (wide, narrow)} | ({f"{name}.bias": (wide,)} if bias else {})


def common(dim: int, ffn: int, layers: int, channels: int) -> dict[str, tuple[int, ...]]:
    """What every file of the family has."""
    found = {"patch_embedding.weight": (dim, channels, 1, 2, 2), "patch_embedding.bias": (dim,)}
    found |= linear("time_embedding.0", dim, 256) | linear("time_embedding.2", dim, dim)
    found |= linear("time_projection.1", 6 * dim, dim)
    found |= linear("head.head", 64, dim) | {"head.modulation": (1, 2, dim)}
    for i in range(layers):
        block = f"blocks.{i}"
        found |= attention(f"{block}.self_attn", dim) | attention(f"{block}.cross_attn", dim)
        found |= linear(f"{block}.ffn.0", ffn, dim) | linear(f"{block}.ffn.2", dim, ffn)
        found |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,), f"{block}.modulation": (1, 6, dim)}
    return found


def text(dim: int) -> dict[str, tuple[int, ...]]:
    return linear("text_embedding.0", dim, 4096) | linear("text_embedding.2", dim, dim)


def camera(dim: int, layers: int, width: int) -> dict[str, tuple[int, ...]]:
    found = linear("patch_embedding_wancamctrl", dim, width)
    found |= linear("c2ws_hidden_states_layer1", dim, dim) | linear("c2ws_hidden_states_layer2", dim, dim)
    names = ("cam_injector_layer1", "cam_injector_layer2", "cam_scale_layer", "cam_shift_layer")
    for i in range(layers):
        for name in names:
            found |= linear(f"blocks.{i}.{name}", dim, dim)
    return found


def actions(keys: int, mouse: bool) -> dict[str, tuple[int, ...]]:
    found = linear("img_emb.proj.1", 1280, 1280) | linear("img_emb.proj.3", 1536, 1280)
    for at, width in ((0, 1280), (4, 1536)):
        found |= {f"img_emb.proj.{at}.weight": (width,), f"img_emb.proj.{at}.bias": (width,)}
    for i in range(15):
        module = f"blocks.{i}.action_model"
        found |= linear(f"{module}.keyboard_embed.0", 128, keys) | linear(f"{module}.keyboard_embed.2", 128, 128)
        found |= linear(f"{module}.mouse_attn_q", 1024, 1536, bias=False)
        found |= linear(f"{module}.keyboard_attn_kv", 2048, 1536, bias=False)
        found |= linear(f"{module}.proj_keyboard", 1536, 1024, bias=False)
        found |= {f"{module}.key_attn_{each}_norm.weight": (64,) for each in "qk"}
        if mouse:
            found |= linear(f"{module}.mouse_mlp.0", 1024, 1560) | linear(f"{module}.mouse_mlp.2", 1024, 1024)
            found |= {f"{module}.mouse_mlp.3.weight": (1024,), f"{module}.mouse_mlp.3.bias": (1024,)}
            found |= linear(f"{module}.t_qkv", 3072, 1024, bias=False)
            found |= linear(f"{module}.proj_mouse", 1536, 1024, bias=False)
            found |= {f"{module}.img_attn_{each}_norm.weight": (64,) for each in "qk"}
    return found


PUBLISHED = {
    "lingbot-world-fast-cam": common(5120, 13824, 40, 36) | text(5120) | camera(5120, 40, 1536),
    "lingbot-world-fast-act": common(5120, 13824, 40, 36) | text(5120) | camera(5120, 40, 1792),
    "lingbot-world-v2-14b": common(5120, 13824, 40, 36) | text(5120) | camera(5120, 40, 1536),
    "lingbot-world-v2-1.3b": common(1536, 8960, 30, 36) | text(1536) | camera(1536, 30, 1536),
    "matrix-game-2.0-universal": common(1536, 8960, 30, 36) | actions(4, mouse=True),
    "matrix-game-2.0-gta": common(1536, 8960, 30, 36) | actions(2, mouse=True),
    "matrix-game-2.0-templerun": common(1536, 8960, 30, 36) | actions(7, mouse=False),
    "self-forcing": common(1536, 8960, 30, 16) | text(1536),
}
"""Names and shapes in the files of each model."""


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_have_the_names_and_shapes_of_the_published_files(name):
    assert shapes(name) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "grid", "wanted"),
    [
        ("lingbot-world-fast-cam", (58, 104), 3_706_060_800),
        ("lingbot-world-fast-act", (60, 104), 3_833_856_000),
        ("lingbot-world-v2-1.3b", (60, 104), 1_150_156_800),
        ("matrix-game-2.0-universal", (44, 80), 486_604_800),
        ("self-forcing", (60, 104), 862_617_600),
    ],
)
def test_a_chunk_is_as_large_as_the_published_models_chunks(name, grid, wanted):
    assert VARIANTS[name].spec("0" * 32, "", grid, "bfloat16").raw_bytes == wanted


def test_models_have_as_many_parameters_as_the_published_ones():
    (case,) = benches.params()
    assert case.value == 0


@pytest.mark.slow
def test_a_pass_equals_the_one_of_diffusers():
    pytest.importorskip("diffusers")
    for variant in (SELF_FORCING, LINGBOT_CAM):
        assert benches.against_diffusers(variant, start=1500, seed=3) <= 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_chunk_by_chunk_equals_one_masked_pass_over_the_clip(name):
    assert benches.against_clip(name, seed=5) <= 1e-5


def moved(change: str) -> float:
    """How far a clip's flow moves when weights of this name are half as large again."""
    adapter = random_adapter(MATRIX_GTA, seed=5)
    with torch.no_grad():
        for name, each in adapter.model.named_parameters():
            if change in name:
                each.mul_(1.5)
    changed = WanWorldModel(adapter.variant, adapter.model, adapter.imagine, adapter.vae, "", GRID)
    return benches.against_clip_of(changed, random_adapter(MATRIX_GTA, seed=5))


def test_the_comparison_sees_a_change_of_any_layer_but_the_weights_that_are_never_applied():
    for change in (
        "blocks.2.self_attn.v.",
        "time_projection",
        "img_emb",
        "cross_attn.norm_k",
        "mouse_mlp",
        "keyboard_embed",
        "norm3",
    ):
        assert moved(change) > 1e-3, change
    assert moved("attn_q_norm") <= 1e-5
    assert moved("attn_k_norm") <= 1e-5


def test_keys_are_kept_in_chunk_local_time_and_placed_as_the_window_places_them():
    rope, start = small(SELF_FORCING.backbone).rope, torch.tensor([2000])
    turns = Rotation(rope, 3, 2, 3).at(start)
    keys = torch.randn(1, 18, 2, 2 * rope.pairs)
    local = rotate(keys, turns.local)
    assert torch.equal(rotate(local, turns.begin), place(local, rope, start))
    assert torch.allclose(rotate(keys, turns.query), place(local, rope, start), atol=1e-5)


def test_a_pass_does_not_depend_on_what_lies_in_slots_that_are_not_valid():
    config = small(LINGBOT_ACT.backbone)
    model, rotation = random_model(config), Rotation(config.rope, config.frames, 2, 3)
    memory = torch.randn(2, config.layers, 1, 36, config.heads, config.head_dim)
    valid = torch.arange(36)[None] < 18
    latents, time = torch.randn(1, config.frames, config.in_channels, *GRID), torch.full((1, config.frames), 500.0)
    rays = model.look(torch.randn(1, config.frames, 6, LINGBOT_ACT.backbone.camera.channels * config.patch**2))
    heard, turns = model.hear(torch.randn(1, 5, 16)), rotation.at(torch.tensor([6]))
    flows = []
    for rest in (0.0, 1e3):
        memory[:, :, :, 18:] = rest
        flows.append(model(latents, time, turns, (memory[0], memory[1]), valid, heard, rays).flow)
    assert torch.equal(*flows)


@pytest.mark.slow
def test_a_pass_compiles_as_one_graph():
    adapter, poses = random_adapter(MATRIX_GTA), np.eye(4)[None].repeat(3, 0)
    window = Window(adapter.spec, [18, 18]).view([0])
    state = adapter.start(Subject())
    told = adapter.teller.tell([Conditioning(poses, state.conditioning(poses), state)])
    latents = torch.randn(1, 3, *adapter.spec.latent)
    eager = adapter.run(latents, 500.0, window, told, keep=True)
    torch.compiler.reset()
    adapter.model.compile(backend="eager", fullgraph=True)
    compiled = adapter.run(latents, 500.0, window, told, keep=True)
    assert eager.kv
    assert compiled.kv
    assert torch.allclose(compiled.flow, eager.flow, atol=1e-6)
    assert torch.allclose(compiled.kv[0], eager.kv[0], atol=1e-6)


def test_half_precision_stays_near():
    config = small(SELF_FORCING.backbone)
    flows = []
    for stream, dtype in (("weights", torch.float32), ("weights", torch.bfloat16), ("float32", torch.bfloat16)):
        model = random_model(replace(config, stream=stream)).to(dtype)
        nothing = torch.empty(config.layers, 1, 0, config.heads, config.head_dim, dtype=dtype)
        torch.manual_seed(1)
        latents, heard = torch.randn(1, 3, 16, *GRID), model.hear(torch.randn(1, 5, 16))
        turns = Rotation(config.rope, 3, 2, 3).at(torch.tensor([0]))
        passed = model(latents, torch.full((1, 3), 625.0), turns, (nothing, nothing), None, heard, keep=True)
        assert passed.flow.dtype == torch.float32
        assert passed.kv[0].dtype == dtype
        flows.append(passed.flow)
    for flow in flows[1:]:
        assert (flow - flows[0]).norm() / flows[0].norm() < 0.05


@pytest.mark.parametrize(
    "change",
    [{"dim": 1537}, {"heads": 24}, {"in_channels": 20}, {"layers": 14, "actions": MATRIX_GTA.backbone.actions}],
)
def test_sizes_that_do_not_fit_are_refused(change):
    with pytest.raises(InvalidConfig):
        replace(WanConfig(1536, 8960, 12, 30, 3), **change)
