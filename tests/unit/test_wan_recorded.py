"""Passes that are recorded on a GPU are those that were asked for."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.wan_small import GRID, random_adapter
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.model import Passed
from services.generator.adapters.wan.recorded import HELD, USED, Recorded, recorded
from services.generator.adapters.wan.variants import LINGBOT_CAM, MATRIX_UNIVERSAL, SELF_FORCING
from services.generator.world_model import Conditioning, Subject
from worldkv.coding import KV, Coding, decode_kv, encode_kv
from worldkv.memory import Device
from worldkv.window import Entry, Window

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, on_a_gpu])]


def taken_down(run: Callable[[], Passed]) -> tuple[Callable[[], object], Passed]:
    """What a GPU does with a graph, without one: the same memory is written again, whatever it held."""
    passed = run()

    def play() -> None:
        for mine, new in zip(tensors(passed), tensors(run()), strict=True):
            mine.copy_(new)

    return play, passed


class Walking:
    """Passes of a model, through what records them and beside it."""

    def __init__(self, device: str, variant=MATRIX_UNIVERSAL) -> None:
        adapter = random_adapter(variant)
        self.device = device
        self.adapter = WanWorldModel(
            adapter.variant, adapter.model.to(device), adapter.imagine, adapter.vae, adapter.spec.weights, GRID
        )
        if device == "cpu":
            self.adapter._pass = Recorded(self.adapter.model, taken_down)
        self.state = self.adapter.start(Subject())
        self.spec = self.adapter.spec

    def window(self, chunks: int = 2) -> Window:
        return Window(self.spec, [self.spec.frames * self.spec.frame_tokens] * chunks, device=self.device)

    def fill(self, window: Window, full: bool = True) -> None:
        """With other chunks than before; the last slot stays empty if it is not full."""
        shape = (self.spec.layers, self.spec.frames * self.spec.frame_tokens, self.spec.heads, self.spec.head_dim)
        count = len(window.sizes) - (not full)
        entries = [Entry(object(), 3 * i, 3, KV(*torch.randn(2, *shape, device=self.device))) for i in range(count)]
        window.fill(0, entries, 3 * count, [3 * i for i in range(count)])

    def compare(self, window: Window, keep: bool, turn: float = 0.0) -> Passed:
        poses = np.eye(4)[None].repeat(3, 0)
        poses[:, 0, 3] = turn * np.arange(3)
        told = self.adapter.teller.tell([Conditioning(poses, self.state.conditioning(poses), self.state)])
        latents, time = torch.randn(1, 3, *self.spec.latent, device=self.device), 1000 * torch.rand(()).item()
        found = self.adapter.run(latents, time, window.view([0]), told, keep)
        own, self.adapter._pass = self.adapter._pass, self.adapter.model
        wanted = self.adapter.run(latents, time, window.view([0]), told, keep)
        self.adapter._pass = own
        for one, other in zip(tensors(found), tensors(wanted), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        return found

    @property
    def kinds(self) -> set[Hashable]:
        """That are recorded."""
        assert isinstance(self.adapter._pass, Recorded)
        return {*self.adapter._pass._held}

    @property
    def recordings(self) -> int:
        return len(self.kinds)


def tensors(passed: Passed) -> list[Tensor]:
    return [passed.flow, *(passed.kv or ()), *(passed.acts or ())]


def test_a_processor_runs_passes_as_they_are():
    adapter = random_adapter(MATRIX_UNIVERSAL)
    assert recorded(adapter.model) is adapter.model


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", [MATRIX_UNIVERSAL, SELF_FORCING], ids=lambda each: each.name)
@pytest.mark.parametrize("full", [True, False])
def test_a_recorded_pass_gives_what_the_model_gives(device, variant, full):
    walking = Walking(device, variant)
    window = walking.window()
    for n in range(2 * USED):
        walking.fill(window, full)  # what stands in a window changes, and where it is does not
        for keep in (False, True):
            walking.compare(window, keep, 0.1 * n)
        assert walking.recordings == (2 if n >= USED - 1 else 0)


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_recorded_pass_leaves_is_not_written_over_by_the_next(device):
    walking = Walking(device)
    window = walking.window()
    walking.fill(window)
    kept = [walking.compare(window, keep=True) for _ in range(USED + 1)][-1]
    before = [each.clone() for each in tensors(kept)[1:]]
    walking.compare(window, keep=True)
    assert all(map(torch.equal, before, tensors(kept)[1:]))


@pytest.mark.parametrize("device", DEVICES)
def test_few_recordings_are_held_and_each_is_of_its_own_window(device):
    walking = Walking(device)
    windows = [walking.window() for _ in range(HELD + 2)]
    for window in windows:
        walking.fill(window)
        for _ in range(USED + 1):
            walking.compare(window, keep=False)
    assert walking.recordings == HELD
    for window in windows:
        walking.compare(window, keep=False)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_what_still_comes_is_not_given_up_for_what_comes_too(device):
    walking = Walking(device)
    windows = [walking.window() for _ in range(HELD + 1)]
    for window in windows:
        walking.fill(window)
    held = []
    for _ in range(3 * USED):
        for window in windows:
            walking.compare(window, keep=False)
        held.append(walking.kinds)
    assert len(held[-1]) == HELD
    assert held[USED] == held[-1]


def test_where_nothing_can_be_recorded_passes_go_on_as_they_are(caplog):
    tried = []

    def fails(run: Callable[[], Passed]) -> tuple[Callable[[], object], Passed]:
        tried.append(run)
        raise RuntimeError("capture was invalidated")

    walking = Walking("cpu")
    walking.adapter._pass = Recorded(walking.adapter.model, fails)
    window = walking.window()
    walking.fill(window)
    for _ in range(3 * USED):
        walking.compare(window, keep=True)
    assert (len(tried), walking.recordings) == (1, 0)
    assert "capture was invalidated" in caplog.text


@pytest.mark.gpu
@on_a_gpu
def test_any_thread_may_run_passes_while_others_code_chunks():
    walking, ended = Walking("cuda"), threading.Event()
    window, device = walking.window(), Device("cuda")
    walking.fill(window)
    shape = (walking.spec.layers, walking.spec.frames * walking.spec.frame_tokens, 2, 28)
    chunk, coding = KV(*torch.randn(2, *shape, device="cuda")), Coding("int8", "int8", raw_first=False)
    torch.cuda.synchronize()  # what is coded beside the model is there

    def code() -> int:
        times = 0
        while not ended.is_set():
            with device.beside():
                part = encode_kv(chunk, coding, walking.spec)
            with device.beside():
                back = device.lend(decode_kv(part, walking.spec, device="cuda"))
            assert torch.allclose(back.keys, chunk.keys, atol=0.1)
            times += 1
        return times

    with ThreadPoolExecutor(2) as coders, ThreadPoolExecutor(8) as drawers:
        coding_on = [coders.submit(code) for _ in range(2)]
        try:
            for _ in range(4 * USED):
                # Whichever is free, and not always the same.
                drawers.submit(walking.compare, window, True).result()
        finally:
            ended.set()
        assert all(each.result() > 1 for each in coding_on)
    assert walking.recordings == 1


@pytest.mark.gpu
@on_a_gpu
def test_passes_that_see_the_camera_in_each_layer_are_not_recorded():
    adapter = random_adapter(LINGBOT_CAM)
    assert recorded(adapter.model.cuda()) is adapter.model
