"""A few fuzzed messages for everything that reads bytes of others; `worldkv bench fuzz.crashes` feeds a million."""

import random
from functools import cache

import pytest

from benchmarks.fuzz.feed import feed
from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.targets import Target, targets
from worldkv.errors import InvalidInput

MESSAGES = 150


@cache
def known() -> dict[str, Target]:
    return {target.name: target for target in targets()}


@pytest.mark.slow
def test_nothing_that_reads_crashes_or_is_deceived():
    fed = [feed(target, 0, MESSAGES) for target in known().values()]
    assert [(each.target, each.words) for each in fed if each.problems] == []
    assert all(each.messages == MESSAGES for each in fed)
    assert sum(each.refused for each in fed) > len(fed) * MESSAGES / 2


def test_good_bytes_are_read():
    for target in known().values():
        if target.sealed:
            assert [target.read(seed) for seed in target.seeds]


def test_a_crash_and_wrong_data_are_seen():
    def crashes(data: bytes) -> object:
        return dict[bytes, object]()[data]

    def changes_nothing(data: bytes) -> object:
        return "the same, whatever comes"

    def believes_all(data: bytes) -> object:
        return data

    def refuses(data: bytes) -> object:
        raise InvalidInput("no")

    problems = [feed(Target("some", [b"good"], read), 1, 50).problems for read in (crashes, refuses)]
    assert problems == [50, 0]
    sealed = [feed(Target("some", [b"good"], read, True), 1, 50).problems for read in (changes_nothing, believes_all)]
    assert sealed == [0, 50]


@pytest.mark.parametrize("seed", range(3))
def test_no_seed_is_fed_as_it_is_and_runs_repeat(seed):
    seeds = [b"", b"good", b"better"]
    made = [mutated(rng, seeds) for rng in [random.Random(seed)] for _ in range(200)]
    assert not set(made) & set(seeds)
    assert made == [mutated(rng, seeds) for rng in [random.Random(seed)] for _ in range(200)]
