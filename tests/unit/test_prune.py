"""Which tokens of a chunk are kept: against the formulas written out in plain Python, and the laws beside them."""

from math import ceil, isnan, sqrt
from threading import Barrier, Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldkv.errors import InvalidInput, NonFinite
from worldkv.prune import Pruning, kept_tokens, select_tokens, similarities
from worldkv.rope import Rope, place

SIMILARITIES = ["anchor_mean", "mean_cosine"]
FRAMES, TOKENS, HEADS, HEAD_DIM = 3, 12, 4, 8

similar = pytest.mark.parametrize("similarity", SIMILARITIES)
pooled = pytest.mark.parametrize("pooled", [False, True])
few = settings(max_examples=10)
seeds = st.integers(0, 2**31)


def keys(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(FRAMES * TOKENS, HEADS, HEAD_DIM, generator=generator) + 0.5


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b)) / sqrt(sum(x * x for x in a)) / sqrt(sum(y * y for y in b))


def oracle(k: Tensor, similarity: str) -> list[float]:
    rows: list[list[float]] = k.flatten(1).double().tolist()
    anchors = rows[:TOKENS]
    if similarity == "anchor_mean":
        mean = [sum(column) / TOKENS for column in zip(*anchors)]
        return [cosine(row, mean) for row in rows]
    return [sum(cosine(row, anchor) for anchor in anchors) / TOKENS for row in rows]


@similar
@few
@given(seed=seeds)
def test_scores_are_the_formulas(similarity, seed):
    found = similarities(keys(seed), FRAMES, similarity).tolist()
    assert found == pytest.approx(oracle(keys(seed), similarity), abs=1e-6)


@similar
@few
@given(seed=seeds, share=st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_each_frame_keeps_its_least_similar_tokens(similarity, seed, share):
    kept = select_tokens(keys(seed), FRAMES, Pruning(share, similarity)).tolist()
    scores = oracle(keys(seed), similarity)
    expected = list(range(TOKENS))
    for frame in range(1, FRAMES):
        own = range(frame * TOKENS, (frame + 1) * TOKENS)
        expected += sorted(sorted(own, key=lambda i: scores[i])[: ceil(share * TOKENS)])
    assert kept == expected


@similar
@few
@given(seed=seeds)
def test_a_pooled_budget_goes_to_the_least_similar_of_all_frames(similarity, seed):
    kept = select_tokens(keys(seed), FRAMES, Pruning(0.25, similarity, pooled=True)).tolist()
    scores = oracle(keys(seed), similarity)
    others = sorted(range(TOKENS, FRAMES * TOKENS), key=lambda i: scores[i])[: (FRAMES - 1) * TOKENS // 4]
    assert kept == [*range(TOKENS), *sorted(others)]


@pooled
def test_nothing_kept_is_the_anchor_alone(pooled):
    assert select_tokens(keys(), FRAMES, Pruning(0.0, pooled=pooled)).tolist() == list(range(TOKENS))


@pooled
def test_everything_kept_is_everything(pooled):
    assert select_tokens(keys(), FRAMES, Pruning(1.0, pooled=pooled)).tolist() == list(range(FRAMES * TOKENS))


@pooled
@similar
@few
@given(seed=seeds, share=st.floats(0, 1))
def test_as_many_are_kept_as_said(pooled, similarity, seed, share):
    pruning = Pruning(share, similarity, pooled)
    kept = select_tokens(keys(seed), FRAMES, pruning)
    assert kept.dtype == torch.int64
    assert len(kept) == kept_tokens(pruning, FRAMES, TOKENS)
    assert (kept.diff() > 0).all()
    assert kept[:TOKENS].tolist() == list(range(TOKENS))


@pytest.mark.parametrize(
    ("share", "tokens", "kept"),
    [(0.25, 48, 48 + 24), (0.07, 100, 100 + 14), (0.3, 10, 10 + 6), (1e-9, 48, 48 + 2), (0.0, 48, 48), (1, 48, 144)],
)
def test_shares_are_rounded_up_as_written(share, tokens, kept):
    assert kept_tokens(Pruning(share), 3, tokens) == kept


def test_a_chunk_of_one_frame_is_kept_whole():
    assert select_tokens(keys()[:TOKENS], 1, Pruning(0.0)).tolist() == list(range(TOKENS))


@similar
@few
@given(seed=seeds, time=st.integers(-2000, 2000))
def test_placing_a_chunk_changes_no_choice(similarity, seed, time):
    moved = place(keys(seed)[None], Rope(2, 1, 1), torch.tensor([time]))[0]
    before, after = (similarities(k, FRAMES, similarity) for k in (keys(seed), moved))
    assert torch.allclose(before, after, atol=1e-6)
    kept = select_tokens(moved, FRAMES, Pruning(0.25, similarity))
    threshold = [before[f * TOKENS : (f + 1) * TOKENS].sort().values[TOKENS // 4 - 1] for f in range(1, FRAMES)]
    for frame, limit in enumerate(threshold, 1):
        own = kept[kept // TOKENS == frame]
        assert (before[own] <= limit + 2e-6).all()


@similar
@few
@given(seed=seeds)
def test_ranks_with_some_of_the_heads_each_keep_the_same_tokens(similarity, seed):
    k, pruning, ranks = keys(seed), Pruning(0.25, similarity), 4
    barrier, shared, kept = Barrier(ranks), [torch.empty(0)] * ranks, [torch.empty(0)] * ranks

    def run(rank: int) -> None:
        def reduce(part: Tensor) -> Tensor:
            shared[rank] = part
            barrier.wait()
            total = torch.stack([shared[(rank + i) % ranks] for i in range(ranks)]).sum(0)  # no order is promised
            barrier.wait()
            return total

        kept[rank] = select_tokens(k[:, rank : rank + 1], FRAMES, pruning, reduce)

    threads = [Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = select_tokens(k, FRAMES, pruning)
    assert all(torch.equal(each, whole) for each in kept)


@similar
@pooled
def test_of_equal_tokens_the_earlier_are_kept(similarity, pooled):
    k = keys()[:1].expand(FRAMES * TOKENS, -1, -1)
    kept = select_tokens(k, FRAMES, Pruning(0.25, similarity, pooled)).tolist()
    expected = range(TOKENS, TOKENS + 6) if pooled else [*range(12, 15), *range(24, 27)]
    assert kept == [*range(TOKENS), *expected]


@similar
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_are_scored_exactly(similarity, dtype):
    k = keys().to(dtype)
    assert torch.equal(similarities(k, FRAMES, similarity), similarities(k.float(), FRAMES, similarity))


@similar
def test_lengths_of_keys_do_not_matter_to_their_own_score(similarity):
    k = keys()
    longer = torch.cat([k[:TOKENS], 1e10 * k[TOKENS:]])
    assert torch.allclose(similarities(k, FRAMES, similarity), similarities(longer, FRAMES, similarity), atol=1e-6)


@similar
def test_keys_of_zeros_are_like_nothing(similarity):
    k = keys()
    k[20] = 0
    scores = similarities(k, FRAMES, similarity)
    assert scores[20] == 0
    assert scores.isfinite().all()
    assert not similarities(torch.zeros_like(k), FRAMES, similarity).any()


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(InvalidInput, match="nan" if isnan(share) else str(share)):
        Pruning(share)


def test_an_unknown_similarity_is_refused():
    with pytest.raises(InvalidInput, match="euclid"):
        Pruning(0.5, "euclid")


@pytest.mark.parametrize("frames", [0, 5])
def test_tokens_that_do_not_divide_into_frames_are_refused(frames):
    with pytest.raises(InvalidInput, match=str(frames)):
        select_tokens(keys(), frames, Pruning(0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [3, 20])
def test_keys_that_are_not_finite_are_refused(bad, where):
    k = keys()
    k[where, 1, 2] = bad
    with pytest.raises(NonFinite, match="1 tokens"):
        select_tokens(k, FRAMES, Pruning(0.5))
