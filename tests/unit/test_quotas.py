"""What one tenant may take: never more than its quota, and never less because of another."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import quotas
from services.gateway.quotas import QuotaConfig, Quotas
from worldkv.errors import InvalidConfig, OverBudget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def nobody() -> int:
    return 0


def opens(made: Quotas, tenant: str, living=nobody) -> bool:
    try:
        with made.opening(tenant, living):
            return True
    except OverBudget:
        return False


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 40)), max_size=60), st.integers(1, 5))
def test_opens_come_at_the_rate_that_is_allowed(asked, at_once):
    clock, over = Clock(), Counter[str]()
    made = Quotas(QuotaConfig(opens_a_minute=6, opens_at_once=at_once), lambda name: over.update([name]), clock)
    done: dict[str, list[float]] = {"a": [], "b": []}
    for tenant, pause in asked:
        clock.now += pause
        if opens(made, tenant):
            done[tenant].append(clock.now)
    assert over["opens"] + sum(map(len, done.values())) == len(asked)
    for times in done.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= at_once + (times[last] - times[first]) / 10 + 1e-6


def test_who_is_over_is_told_when_to_come_again():
    clock = Clock()
    made = Quotas(QuotaConfig(opens_a_minute=6, opens_at_once=1), lambda _: None, clock)
    assert opens(made, "a")
    clock.now += 4
    with pytest.raises(OverBudget, match=r"may open 6 sessions a minute, and the next one in 6\.0 s"):
        with made.opening("a", nobody):
            pass
    assert opens(made, "b")
    clock.now += 6.001
    assert opens(made, "a")


def test_sessions_that_are_being_opened_count():
    over: list[str] = []
    made = Quotas(QuotaConfig(sessions=3), over.append)
    with made.opening("a", lambda: 1):
        with made.opening("a", lambda: 1):
            with pytest.raises(OverBudget, match="tenant a has 3 sessions, and may have 3"):
                with made.opening("a", lambda: 1):
                    pass
            assert opens(made, "b", lambda: 2)
        assert opens(made, "a", lambda: 1)
    assert over == ["sessions"]


def test_an_opening_that_failed_does_not_count_as_living():
    made = Quotas(QuotaConfig(sessions=1), lambda _: None)
    with pytest.raises(ZeroDivisionError), made.opening("a", nobody):
        raise ZeroDivisionError
    assert opens(made, "a")


def test_without_a_quota_nothing_is_counted():
    def living() -> int:
        raise AssertionError

    made = Quotas(QuotaConfig(), lambda _: None)
    assert all(opens(made, "a", living) for _ in range(100))


def test_tenants_who_have_rested_are_forgotten(monkeypatch):
    monkeypatch.setattr(quotas, "MOST_KNOWN", 3)
    clock = Clock()
    made = Quotas(QuotaConfig(opens_a_minute=60, opens_at_once=2), lambda _: None, clock)
    for tenant in "abcdef":
        assert opens(made, tenant)
        clock.now += 1
    assert len(made._left) <= 3
    assert opens(made, "f")


@pytest.mark.parametrize("wrong", [{"sessions": -1}, {"opens_a_minute": -1.0}, {"opens_at_once": 0}])
def test_a_quota_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidConfig, match=f"quota.{next(iter(wrong))}"):
        QuotaConfig(**wrong)
