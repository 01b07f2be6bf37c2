import pytest
import torch

from tests.toys import toy_spec
from worldkv.coding import KV
from worldkv.errors import InvalidConfig, OverBudget
from worldkv.rope import Rope, place
from worldkv.window import Entry, Window, WindowConfig, positions

SPEC = toy_spec()
TOKENS = SPEC.frames * SPEC.frame_tokens


def entry(tag: str, begin: int, tokens: int = TOKENS) -> Entry:
    shape = (SPEC.layers, tokens, SPEC.heads, SPEC.head_dim)
    generator = torch.Generator().manual_seed(hash(tag) % 1000)
    return Entry(
        tag, begin, SPEC.frames, KV(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
    )


def test_an_empty_window_attends_to_nothing() -> None:
    assert not Window(SPEC, [TOKENS, TOKENS]).valid.any()


def test_keys_stand_where_their_chunk_is_placed() -> None:
    window, chunk = Window(SPEC, [TOKENS]), entry("a", 30)
    window.fill(0, [chunk], 33, [30])
    expected = place(chunk.kv.keys[None], Rope(*SPEC.rope, theta=SPEC.theta), torch.tensor([30]))[0]
    assert torch.equal(window.keys[:, 0], expected)
    assert torch.equal(window.values[:, 0], chunk.kv.values)
    assert window.position.tolist() == [33]


def test_empty_slots_and_unused_tokens_are_masked() -> None:
    window = Window(SPEC, [TOKENS, TOKENS, TOKENS])
    window.fill(0, [entry("a", 0), None, entry("b", 3, TOKENS - 2)], 6, [0, 0, 3])
    valid = window.valid[0].view(3, TOKENS)
    assert valid.sum(1).tolist() == [TOKENS, 0, TOKENS - 2]
    assert not window.view([0]).whole


def test_a_full_window_needs_no_mask() -> None:
    window = Window(SPEC, [TOKENS])
    window.fill(0, [entry("a", 0)], 3, [0])
    assert window.view([0]).whole
    assert window.valid.all()


def test_a_chunk_that_stays_is_not_moved_again() -> None:
    window = Window(SPEC, [TOKENS, TOKENS])
    window.fill(0, [entry("a", 0), entry("b", 3)], 6, [0, 3])
    moved = window.moved_tokens
    window.fill(0, [entry("a", 0), entry("c", 6)], 9, [0, 3])
    assert window.moved_tokens - moved == TOKENS


def test_a_chunk_raw_and_coded_is_not_the_same_chunk() -> None:
    window = Window(SPEC, [TOKENS])
    window.fill(0, [entry("raw", 0)], 3, [0])
    window.fill(0, [entry("coded", 0)], 3, [0])
    assert torch.equal(window.values[:, 0], entry("coded", 0).kv.values)


def test_sessions_of_a_batch_do_not_touch_each_other() -> None:
    window = Window(SPEC, [TOKENS], batch=2)
    window.fill(0, [entry("a", 0)], 3, [0])
    window.fill(1, [entry("b", 9)], 12, [9])
    assert torch.equal(window.values[:, 0], entry("a", 0).kv.values)
    assert torch.equal(window.values[:, 1], entry("b", 9).kv.values)
    assert window.position.tolist() == [3, 12]


def rows_of_three() -> Window:
    """Row 0 is full, row 1 is not, row 2 is full."""
    window = Window(SPEC, [TOKENS], batch=3)
    for row, tag, tokens in ((0, "a", TOKENS), (1, "b", TOKENS - 1), (2, "c", TOKENS)):
        window.fill(row, [entry(tag, 0, tokens)], 3 + row, [0])
    return window


@pytest.mark.parametrize("rows", [[0], [2], [0, 1], [1, 2], [0, 2], [2, 0], [1, 0, 2], [0, 1, 2]])
def test_a_view_holds_its_rows_in_order(rows: list[int]) -> None:
    window = rows_of_three()
    view = window.view(rows)
    assert torch.equal(view.keys, window.keys[:, rows])
    assert torch.equal(view.values, window.values[:, rows])
    assert torch.equal(view.valid, window.valid[rows])
    assert view.position.tolist() == [3 + row for row in rows]
    assert view.whole == (1 not in rows)


def test_a_run_of_rows_is_seen_where_it_lies() -> None:
    window = rows_of_three()
    view = window.view([1, 2])
    assert view.keys.data_ptr() == window.keys[:, 1].data_ptr()
    assert view.values.data_ptr() == window.values[:, 1].data_ptr()


def test_a_view_of_the_slots_in_use_needs_no_mask() -> None:
    window = Window(SPEC, [TOKENS, TOKENS, TOKENS], batch=2)
    window.fill(1, [entry("a", 0), entry("b", 3)], 6, [0, 3])
    view = window.view([1], slots=2)
    assert view.whole
    assert torch.equal(view.keys, window.keys[:, 1:, : 2 * TOKENS])
    assert torch.equal(view.values[:, 0, TOKENS:], entry("b", 3).kv.values)
    assert view.valid.shape == (1, 2 * TOKENS)
    assert not window.view([1]).whole
    assert not window.view([0, 1], slots=2).whole


def test_a_chunk_that_was_moved_by_half_is_moved_again() -> None:
    window, old, new = Window(SPEC, [TOKENS]), entry("old", 0), entry("new", 0)
    window.fill(0, [old], 3, [0])
    broken = new._replace(kv=KV(new.kv.keys, new.kv.values[:, 1:]))
    with pytest.raises(RuntimeError):
        window.fill(0, [broken], 3, [0])
    window.fill(0, [old], 3, [0])
    assert torch.equal(window.keys[:, 0], old.kv.keys)


def test_a_chunk_too_large_for_its_slot_is_refused() -> None:
    with pytest.raises(OverBudget, match=str(TOKENS)):
        Window(SPEC, [TOKENS - 1]).fill(0, [entry("a", 0)], 3, [0])


def test_a_window_grows_without_losing_what_it_holds() -> None:
    window = Window(SPEC, [TOKENS])
    window.fill(0, [entry("a", 0)], 3, [0])
    grown = window.grown([TOKENS, TOKENS])
    grown.fill(0, [entry("a", 0), entry("b", 3)], 6, [0, 3])
    assert grown.moved_tokens == TOKENS
    assert torch.equal(grown.values[:, 0, :TOKENS], entry("a", 0).kv.values)
    with pytest.raises(InvalidConfig):
        window.grown([TOKENS + 1, TOKENS])


def test_original_placement_keeps_every_chunk_at_its_own_time() -> None:
    assert positions([entry("a", 0), None, entry("b", 300)], 303, "original") == ([0, 0, 300], 303)


def test_rebased_placement_renumbers_the_whole_window_from_zero() -> None:
    entries = [entry("a", 0), entry("b", 900), None, entry("c", 1200)]
    assert positions(entries, 1203, "rebased") == ([0, 3, 6, 6], 9)


def test_rebased_positions_never_grow_with_the_walk() -> None:
    for begin in (12, 1_200, 1_200_000):
        assert positions([entry("a", 0), entry("b", begin - 3)], begin, "rebased") == ([0, 3], 6)


@pytest.mark.parametrize("bad", [{"sink": -3}, {"recalled": -1}, {"placement": "elsewhere"}])
def test_a_config_that_means_nothing_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig, match=next(iter(bad))):
        WindowConfig(**bad)  # type: ignore[arg-type]
