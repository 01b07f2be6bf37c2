"""Deadlines, and the walk over rankings: waves, failures, retries."""

import asyncio
from time import monotonic

import pytest

from worldkv.client.policy import Deadline, Retry, walk
from worldkv.errors import DeadlineExceeded, InvalidConfig, OverBudget, Unavailable

QUICK = Retry(attempts=3, first_seconds=0.001)


class Toy:
    """A shard that has some keys, and does not answer its first `failures` calls."""

    def __init__(self, has: str = "", failures: int = 0) -> None:
        self.has, self.failures, self.resting = set(has), failures, False
        self.calls: list[str] = []


async def find(routes: dict[str, list[Toy]], retry: Retry = QUICK, deadline: Deadline | None = None) -> set[str]:
    found: set[str] = set()

    async def ask(toy: Toy, keys: list[str]) -> None:
        toy.calls.append("".join(keys))
        await asyncio.sleep(0)
        if toy.failures:
            toy.failures -= 1
            raise Unavailable("toy")
        found.update(toy.has.intersection(keys))

    await walk(routes, ask, found.__contains__, retry, deadline or Deadline(10))
    return found


async def test_each_wave_asks_every_shard_once_about_all_its_keys():
    a, b = Toy("x"), Toy("yz")
    assert await find({"x": [a, b], "y": [a, b], "z": [b, a]}) == {"x", "y", "z"}
    assert (a.calls, b.calls) == (["xy"], ["z", "y"])


async def test_a_shard_that_does_not_answer_is_passed_over_and_asked_again_at_the_end():
    a, b = Toy("x", failures=1), Toy()
    assert await find({"x": [a, b]}) == {"x"}
    assert (a.calls, b.calls) == (["x", "x"], ["x"])


async def test_who_was_found_elsewhere_is_not_asked_for_again():
    a, b = Toy("x", failures=9), Toy("x")
    assert await find({"x": [a, b]}) == {"x"}
    assert len(a.calls) == 1


async def test_attempts_are_limited_and_a_resting_shard_is_left_alone():
    a = Toy("x", failures=9)
    assert await find({"x": [a]}) == set()
    assert len(a.calls) == QUICK.attempts
    a.resting = True
    a.calls.clear()
    assert await find({"x": [a]}) == set()
    assert len(a.calls) == 1, "asked once, which costs nothing, and not again"


async def test_nothing_is_asked_after_the_deadline():
    a = Toy("x")
    assert await find({"x": [a]}, deadline=Deadline(0)) == set()
    assert not a.calls
    slow, begin = Toy("x", failures=9), monotonic()
    await find({"x": [slow]}, Retry(attempts=9, first_seconds=5), Deadline(0.05))
    assert monotonic() - begin < 2


async def test_other_errors_end_the_walk():
    async def ask(toy: Toy, keys: list[str]) -> None:
        raise OverBudget("full")

    with pytest.raises(OverBudget):
        await walk({"x": [Toy()]}, ask, lambda key: False, QUICK, Deadline(1))


def test_a_deadline_counts_down():
    deadline = Deadline(60)
    assert 59 < deadline.require("it") <= 60
    assert not deadline.passed
    with pytest.raises(DeadlineExceeded, match=r"it was not done within -1 s"):
        Deadline(-1).require("it")


def test_waits_grow_and_are_drawn():
    retry = Retry(attempts=4, first_seconds=1)
    waits = list(retry.waits())
    assert waits[0] == 0
    assert len(waits) == 4
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits[1:]))


@pytest.mark.parametrize("change", [{"attempts": 0}, {"first_seconds": -1}, {"rest_seconds": float("nan")}])
def test_a_policy_that_cannot_be_is_refused(change):
    with pytest.raises(InvalidConfig, match=next(iter(change))):
        Retry(**change)
