"""Files of weights: what is in them, how they are read, and what is refused."""

import json
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from services.generator.adapters.wan.files import FLOATS, Stored, fill, finite, stored
from worldkv.errors import WeightsError, WeightsMismatch, WeightsMissing


def shards(folder: Path, count: int = 3) -> dict[str, torch.Tensor]:
    """A folder of shards with their index; answers what is in them."""
    tensors = {f"layer.{i}": torch.full((2, i + 1), float(i)) for i in range(6)}
    where = {name: f"part-{i % count}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
    (folder / "part.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return tensors


def test_shards_are_those_that_the_index_names(tmp_path: Path):
    tensors = shards(tmp_path)
    save_file({"stray": torch.zeros(1)}, tmp_path / "another.safetensors")
    found = stored(tmp_path)
    assert {name: each.shape for name, each in found.items()} == {n: tuple(x.shape) for n, x in tensors.items()}
    assert all(torch.equal(each.read(), tensors[name]) for name, each in found.items())


def test_a_shard_that_is_not_there_is_named(tmp_path: Path):
    shards(tmp_path)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"part-1\.safetensors, 1 in all"):
        stored(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none_is_refused(text, tmp_path: Path):
    shards(tmp_path)
    (tmp_path / "part.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsMismatch, match="is no index of shards"):
        stored(tmp_path)


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_carries_code_is_refused_and_the_code_does_not_run(zipped, tmp_path: Path):
    ran, file = tmp_path / "ran", tmp_path / "a.pth"
    torch.save({"weight": torch.zeros(1), "more": Touches(ran)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"a\.pth is not .*(carries getattr, which might run code|before 1.6)$"):
        stored(file)
    assert not ran.exists()
    torch.load(file, weights_only=False)
    assert ran.exists(), "the file would have done no harm"


class Counted:
    """Tensors as they come from files, of which it counts those that are alive."""

    def __init__(self) -> None:
        self.alive = self.most = self.reads = 0

    def stored(self, tensor: torch.Tensor) -> Stored:
        def read() -> torch.Tensor:
            made = tensor.clone()
            self.reads, self.alive = self.reads + 1, self.alive + 1
            self.most = max(self.most, self.alive)
            weakref.finalize(made, self.gone)
            return made

        return Stored(tuple(tensor.shape), read)

    def gone(self) -> None:
        self.alive -= 1


def test_a_module_is_filled_one_tensor_at_a_time(tmp_path: Path):
    with torch.device("meta"):
        module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    counted, weights = Counted(), nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))).state_dict()
    tensors = {name: counted.stored(each) for name, each in weights.items()}
    fill(module, tensors, tmp_path, torch.bfloat16, "cpu")
    assert (counted.reads, counted.most, counted.alive) == (len(weights), 1, 0)
    assert {each.dtype for each in module.parameters()} == {torch.bfloat16}
    for name, each in module.state_dict().items():
        assert torch.equal(each, weights[name].bfloat16())


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_number_that_is_none_is_seen(wrong, dtype):
    numbers = torch.linspace(-3, 3, 1000).to(dtype)
    assert finite(numbers)
    assert all(finite(torch.zeros(shape, dtype=dtype)) for shape in ((0,), (), (2, 0)))
    for at in (0, 500, 999):
        spoilt = numbers.clone()
        spoilt[at] = wrong
        assert not finite(spoilt.view(10, 100).T)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"0.bias": torch.zeros(3)}, r"0\.bias: \(3,\) where \(4,\) is expected"),
        ({"more": torch.zeros(1)}, r"more: \(1,\) where None is expected"),
        ({"0.bias": torch.full((4,), torch.inf)}, r"0\.bias holds torch\.float32 values that are not finite as .*16"),
        ({"0.bias": torch.full((4,), -70_000.0)}, r"0\.bias holds torch\.float32 values that are not finite as .*16"),
        ({"0.bias": torch.zeros(4, dtype=torch.int64)}, r"0\.bias holds torch\.int64 values"),
        ({"0.bias": torch.zeros(4).to(torch.float8_e4m3fn)}, r"0\.bias holds torch\.float8_e4m3fn values"),
    ],
)
def test_a_module_is_not_filled_with_what_is_not_its_own(change, words, tmp_path: Path):
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 4))
    counted, weights = Counted(), nn.Sequential(nn.Linear(4, 4)).state_dict() | change
    with pytest.raises(WeightsMismatch, match=words):
        fill(module, {name: counted.stored(each) for name, each in weights.items()}, tmp_path, torch.float16, "cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of each kind."""
    folder, tensors = tmp_path_factory.mktemp("whole"), {"a.weight": torch.ones(2, 3), "b.bias": torch.zeros(4)}
    torch.save({"generator": tensors}, folder / "a.pt")
    save_file(tensors, folder / "a.safetensors")
    return {file.suffix: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_to_a_file_it_is_read_or_refused_by_name(suffix, data, whole, tmp_path):
    content = bytearray(whole[suffix])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[at] = byte
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
    file = tmp_path / f"a{suffix}"
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    with suppress(WeightsMismatch):
        for each in stored(file).values():
            assert tuple(each.read().shape) == each.shape


def test_parameters_in_a_pickle_are_tensors_like_others(tmp_path: Path):
    torch.save({"weight": nn.Parameter(torch.ones(2))}, tmp_path / "a.pth")
    assert not stored(tmp_path / "a.pth")["weight"].read().requires_grad
