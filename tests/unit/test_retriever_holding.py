"""What a replica holds and forgets, and what it can be told."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.config import RetrieverConfig, StoreConfig
from services.retriever.holding import Holding, without
from tests.example_files import complete
from tests.wire.replica import metas
from worldkv.chunk import Lineage
from worldkv.config import load
from worldkv.errors import InvalidConfig, OverBudget, SpecMismatch
from worldkv.index import Batch

A, B, C = (Lineage.begin(name * 16) for name in (b"a", b"b", b"c"))
T = "tenant"

runs = (
    st.lists(st.integers(0, 40), max_size=8, unique=True)
    .map(sorted)
    .map(lambda edges: [*zip(edges[::2], edges[1::2], strict=False)])
)


@given(runs, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), max_size=5))
def test_what_is_left_of_runs_is_what_a_set_says(some, others):
    left = without(some, others)
    assert {n for run in left for n in range(*run)} == {n for run in some for n in range(*run)} - {
        n for run in others for n in range(*run)
    }
    assert all(begin < end for begin, end in left)
    assert left == sorted(left)


def add(holding: Holding, lineage: Lineage, length: int, begin: int = 0) -> int:
    return holding.add(T, Batch.of(metas(lineage, length, begin)))


def test_the_branch_asked_for_least_recently_makes_room():
    holding = Holding(20, 30.0, forgets=True)
    add(holding, A, 8)
    add(holding, B, 8)
    with holding.asked(T, [A.root]):
        pass
    add(holding, C, 6)
    assert [holding.index(T).held(each.root) for each in (A, B, C)] == [8, 0, 6]
    assert (holding.chunks, holding.branches, holding.forgotten) == (14, 2, 1)
    assert holding.nbytes == holding.index(T).nbytes > 0


def test_a_branch_in_use_is_not_forgotten():
    holding = Holding(20, 30.0, forgets=True)
    add(holding, A, 12)
    with holding.asked(T, [A.root]), pytest.raises(OverBudget, match="1 more"):
        add(holding, B, 9)
    assert holding.chunks == 12
    add(holding, B, 9)
    assert holding.chunks == 9


def test_adding_what_is_held_needs_no_room():
    holding = Holding(10, 30.0, forgets=False)
    assert add(holding, A, 10) == 10
    assert add(holding, A, 10) == 0
    with pytest.raises(OverBudget):
        add(holding, A, 11)


def test_what_was_looked_for_is_not_wanted_for_a_while():
    holding = Holding(100, 1000.0, forgets=True)
    add(holding, A, 3)
    far = float("inf")
    assert holding.wanted(T, A, 10, far) == {A.root: (3, 10)}
    holding.looked(T, A.root, (3, 6))
    assert holding.wanted(T, A, 10, far) == {A.root: (6, 10)}
    holding.looked(T, A.root, (8, 12))
    assert holding.wanted(T, A, 10, far) == {A.root: (6, 8)}
    assert holding.wanted("other", A, 2, far) == {A.root: (0, 2)}
    holding.gap_seconds = 0.0
    assert holding.wanted(T, A, 10, far) == {A.root: (3, 10)}
    assert holding.wanted(T, A, 10, 0.0) == {A.root: (6, 8)}, "looked for since this call began"


def test_nothing_is_remembered_for_ever():
    holding = Holding(100, 0.0, forgets=True)
    add(holding, A, 3)
    with holding.asked(T, [A.root, B.root]), holding.asked("other", [C.root]):
        holding.looked(T, B.root, (0, 5))
        holding.tidy()
    holding.tidy()
    assert [*holding._records] == [(T, A.root)]
    assert [*holding._indexes] == [T]
    holding.remove(T, holding.listed(T, A.root))
    holding.tidy()
    assert not holding._records
    assert not holding._indexes


def test_another_model_is_told_by_branch():
    holding = Holding(100, 1.0, forgets=False)
    add(holding, A, 3)
    holding.require(T, A, "0" * 32)
    holding.require("other", A, "f" * 32)
    with pytest.raises(SpecMismatch, match="f" * 32):
        holding.require(T, A, "f" * 32)


def test_the_example_names_every_setting_with_its_default():
    file = Path(__file__).parents[2] / "services" / "retriever" / "retriever.toml"
    text = complete(file, RetrieverConfig)
    lines = text.split("# [store]\n")[1].splitlines()
    settings = [line.removeprefix("# ") for line in lines if " = " in line or line.startswith("# [")]
    written = tomllib.loads("\n".join(settings))
    written |= written.pop("store")
    assert written.keys() == {each.name for each in fields(StoreConfig)}
    default = StoreConfig(shards=("a",))
    for name in ("deadline_seconds", "stall_seconds"):
        assert written[name] == getattr(default, name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"STORE__SHARDS": "a:1", "STORE__MEMBERS": "x.toml"}, "one of both"),
        ({"STORE__DEADLINE_SECONDS": "1"}, "one of both"),
        ({"STORE__SHARDS": "a:1", "STORE__STALL_SECONDS": "0"}, "stall_seconds"),
        ({"INDEX__MAX_CHUNKS": "0"}, "max_chunks"),
        ({"INDEX__GAP_SECONDS": "-1"}, "gap_seconds"),
        ({"SERVING__THREADS": "0"}, "threads"),
        ({"SERVING__INLINE_CHUNKS": "-1"}, "inline_chunks"),
        ({"SERVING__LATE_SECONDS": "-1"}, "late_seconds"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(InvalidConfig, match=words):
        load(RetrieverConfig, "X_", None, {f"X_{name}": value for name, value in settings.items()})
