"""How chunks are pruned and coded into KV parts, and what is refused on the way back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.toys import toy_spec
from worldkv.chunk import KVPart
from worldkv.codec import CODECS, fit
from worldkv.coding import KV, Coding, coded_bytes, decode_kv, encode_kv, stored_tokens
from worldkv.errors import BadHeader, NonFinite, SpecMismatch, Truncated, UnknownCodec
from worldkv.prune import Pruning, select_tokens

SPEC = toy_spec()
SHAPE = (SPEC.layers, SPEC.frames * SPEC.frame_tokens, SPEC.heads, SPEC.head_dim)


def chunk(seed: int = 0) -> KV:
    generator = torch.Generator().manual_seed(seed)
    return KV(torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator))


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / a.norm())


def test_raw_chunks_come_back_bit_for_bit():
    back = decode_kv(encode_kv(chunk(), Coding("raw", "raw"), SPEC), SPEC)
    assert torch.equal(back.keys, chunk().keys)
    assert torch.equal(back.values, chunk().values)


@pytest.mark.parametrize("name", CODECS)
def test_a_part_is_as_large_as_foretold(name):
    coding = Coding(name, "int8", Pruning(0.25))
    part = encode_kv(chunk(), coding, SPEC)
    assert part.nbytes == coded_bytes(coding, SPEC)
    assert decode_kv(part, SPEC).tokens == stored_tokens(coding, SPEC)


def test_keys_and_values_have_codecs_of_their_own():
    part = encode_kv(chunk(), Coding("raw", "int8"), SPEC)
    assert {(s.kind, s.codec) for s in part.segments} == {("k", "raw"), ("v", "int8")}
    back = decode_kv(part, SPEC)
    assert torch.equal(back.keys, chunk().keys)
    assert 0 < error(chunk().values, back.values) < 0.02


@pytest.mark.parametrize("name", sorted(CODECS))
def test_layers_coded_a_few_at_a_time_are_coded_as_all_at_once(name, monkeypatch):
    kv, spec, coding = chunk(), SPEC, Coding(name, name, raw_first=False)
    apart = KV(*(x.mT.contiguous().mT for x in kv))  # so that raw ones are coded too
    whole = encode_kv(apart, coding, spec)
    monkeypatch.setattr("worldkv.coding.AT_ONCE", 1)
    some = encode_kv(apart, coding, spec)
    assert [bytes(each.data) for each in some.segments] == [bytes(each.data) for each in whole.segments]
    assert all(map(torch.equal, decode_kv(some, spec), decode_kv(whole, spec)))


def test_each_layer_keeps_its_own_tokens_and_their_values():
    pruning = Pruning(0.5)
    back = decode_kv(encode_kv(chunk(), Coding("raw", "raw", pruning), SPEC), SPEC)
    kept = [select_tokens(layer, SPEC.frames, pruning) for layer in chunk().keys]
    assert not torch.equal(kept[0], kept[1])
    for layer, tokens in enumerate(kept):
        assert torch.equal(back.keys[layer], chunk().keys[layer, tokens])
        assert torch.equal(back.values[layer], chunk().values[layer, tokens])


def test_the_first_chunk_is_kept_whole_and_raw():
    coding = Coding("int3", "int3", Pruning(0.25))
    assert torch.equal(decode_kv(encode_kv(chunk(), coding, SPEC, first=True), SPEC).keys, chunk().keys)
    like_others = replace(coding, raw_first=False)
    assert decode_kv(encode_kv(chunk(), like_others, SPEC, first=True), SPEC).tokens == stored_tokens(coding, SPEC)


def test_segments_may_come_in_any_order():
    part = encode_kv(chunk(), Coding("int4", "int4"), SPEC)
    mixed = KVPart(part.segments[::-1])
    assert torch.equal(decode_kv(mixed, SPEC).keys, decode_kv(part, SPEC).keys)


def test_groups_of_heads_are_set_side_by_side():
    halves = replace(SPEC, heads=1)
    parts = [encode_kv([x[:, :, i : i + 1] for x in chunk()], Coding("raw", "raw"), halves) for i in range(2)]
    segments = [replace(s, head_group=i) for i, part in enumerate(parts) for s in part.segments]
    assert torch.equal(decode_kv(KVPart(tuple(segments)), SPEC).keys, chunk().keys)


def test_fitted_codecs_must_be_at_hand_to_read():
    by = fit(chunk().keys, 8)
    coding = Coding(by.name, "int8", fitted={by.name: by})
    part = encode_kv(chunk(), coding, SPEC)
    assert error(chunk().keys, decode_kv(part, SPEC, coding.fitted).keys) < 0.05
    with pytest.raises(UnknownCodec, match=by.name):
        decode_kv(part, SPEC)


def test_a_model_without_keys_and_values_is_legal():
    spec = replace(SPEC, layers=0)
    none = torch.empty(0, *SHAPE[1:])
    part = encode_kv((none, none), Coding(), spec)
    assert part.segments == ()
    assert decode_kv(part, spec).keys.shape == none.shape
    assert coded_bytes(Coding(), spec) == 0


def test_unknown_codecs_are_refused_when_the_coding_is_built():
    with pytest.raises(UnknownCodec, match="int5"):
        Coding("int4", "int5")


def test_chunks_of_another_model_are_refused():
    with pytest.raises(SpecMismatch, match="pocket"):
        encode_kv(chunk(), Coding(), replace(SPEC, heads=1))
    with pytest.raises(SpecMismatch, match="heads"):
        decode_kv(encode_kv(chunk(), Coding(), SPEC), replace(SPEC, heads=3))


@pytest.mark.parametrize("which", ["keys", "values"])
def test_values_that_are_not_finite_are_refused(which):
    bad = chunk()
    getattr(bad, which)[1, 2] = float("nan")
    with pytest.raises(NonFinite):
        encode_kv(bad, Coding(), SPEC)


def test_missing_layers_are_told():
    part = encode_kv(chunk(), Coding(), SPEC)
    with pytest.raises(BadHeader, match=r"\[1\]"):
        decode_kv(KVPart(part.segments[1:]), SPEC)


def test_layers_that_differ_in_codec_are_refused():
    a, b = (encode_kv(chunk(), Coding(name, "raw"), SPEC).segments for name in ("int4", "int8"))
    with pytest.raises(BadHeader, match="codec"):
        decode_kv(KVPart((a[0], *b[1:])), SPEC)


def test_keys_and_values_of_different_length_are_refused():
    a, b = (encode_kv(chunk(), Coding("raw", "raw", Pruning(share)), SPEC).segments for share in (1.0, 0.5))
    with pytest.raises(BadHeader, match="differ in shape"):
        decode_kv(KVPart((*a[: SPEC.layers], *b[SPEC.layers :])), SPEC)


def test_cut_segments_are_refused():
    part = encode_kv(chunk(), Coding(), SPEC)
    short = replace(part.segments[0], data=np.ascontiguousarray(part.segments[0].data[:-1]))
    with pytest.raises(Truncated):
        decode_kv(KVPart((short, *part.segments[1:])), SPEC)


def test_raw_chunks_are_used_where_they_lie():
    kv = chunk()
    part = encode_kv(kv, Coding("raw", "raw"), SPEC)
    back = decode_kv(part, SPEC)
    assert back.keys.data_ptr() == part.segments[0].data.ctypes.data == kv.keys.data_ptr()
    assert back.values.data_ptr() == kv.values.data_ptr()


def test_raw_layers_that_lie_apart_are_joined():
    part = encode_kv(chunk(), Coding("raw", "raw"), SPEC)
    apart = KVPart(tuple(replace(each, data=each.data.copy()) for each in part.segments))
    mixed = KVPart(tuple(reversed(part.segments)))
    for each in (apart, mixed):
        back = decode_kv(each, SPEC)
        assert torch.equal(back.keys, chunk().keys)
        assert torch.equal(back.values, chunk().values)


def test_raw_chunks_keep_the_memory_that_they_lie_in():
    def landed() -> KVPart:
        part = encode_kv(chunk(), Coding("raw", "raw"), SPEC)
        memory = memoryview(bytearray(b"".join(each.data.data for each in part.segments))).toreadonly()
        size = part.segments[0].data.nbytes
        data = [np.frombuffer(memory[n * size : (n + 1) * size], np.uint8) for n in range(len(part.segments))]
        return KVPart(tuple(replace(each, data=some) for each, some in zip(part.segments, data, strict=True)))

    back = decode_kv(landed(), SPEC)
    others = [bytearray(back.keys.nbytes * 2) for _ in range(8)]
    assert torch.equal(back.keys, chunk().keys)
    assert torch.equal(back.values, chunk().values)
    assert len(others) == 8


def test_a_raw_chunk_that_lies_otherwise_is_coded_all_the_same():
    kv = KV(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in chunk()))
    back = decode_kv(encode_kv(kv, Coding("raw", "raw"), SPEC), SPEC)
    assert torch.equal(back.keys, chunk().keys)
