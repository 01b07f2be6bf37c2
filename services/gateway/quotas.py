"""What one tenant may take: sessions at once, and how often it may open one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from worldkv.errors import InvalidConfig, OverBudget

MOST_KNOWN = 10_000
"""Tenants of which it is remembered how often they opened sessions; who has not for long is forgotten."""

Quota = Literal["sessions", "opens"]


@dataclass(frozen=True)
class QuotaConfig:
    """Of one tenant.

    sessions        that may live at once, on all generators together, suspended ones too; 0: any number
    opens_a_minute  that may be opened through this gateway in the long run; 0: any number
    opens_at_once   that may be opened in a row after a rest

    Raises InvalidConfig naming the value that is out of range.
    """

    sessions: int = 0
    opens_a_minute: float = 0.0
    opens_at_once: int = 10

    def __post_init__(self) -> None:
        if self.sessions < 0:
            raise InvalidConfig(f"quota.sessions must not be negative, got {self.sessions}")
        if not 0 <= self.opens_a_minute < float("inf"):
            raise InvalidConfig(f"quota.opens_a_minute = {self.opens_a_minute}: expected a number from 0")
        if self.opens_at_once < 1:
            raise InvalidConfig(f"quota.opens_at_once must be at least 1, got {self.opens_at_once}")


class Quotas:
    """Keeps tenants within their quota.

    over   is told of each time one was not let
    clock  seconds
    """

    def __init__(self, config: QuotaConfig, over: Callable[[Quota], object], clock: Callable[[], float] = monotonic):
        self.config, self._over, self._clock = config, over, clock
        self._under_way: Counter[str] = Counter()
        self._left: dict[str, tuple[float, float]] = {}  # opens that a tenant had left, and when

    @contextmanager
    def opening(self, tenant: str, living: Callable[[], int]) -> Iterator[None]:
        """Around the opening of a session; `living` counts the tenant's. Raises OverBudget beyond a quota."""
        with self.waking(tenant, living):
            self._take(tenant)
            yield

    @contextmanager
    def waking(self, tenant: str, living: Callable[[], int]) -> Iterator[None]:
        """Around what makes one more session live; see `opening`. Raises OverBudget beyond the quota of sessions."""
        most = self.config.sessions
        if most and living() + self._under_way[tenant] >= most:
            self._over("sessions")
            count = living() + self._under_way[tenant]
            raise OverBudget(f"tenant {tenant} has {count} sessions, and may have {most}: close one first")
        self._under_way[tenant] += 1
        try:
            yield
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]

    def _take(self, tenant: str) -> None:
        """Take one of the opens that a tenant has left; they come back with time."""
        rate, most, now = self.config.opens_a_minute / 60, float(self.config.opens_at_once), self._clock()
        if not rate:
            return
        left, since = self._left.get(tenant, (most, now))
        left = min(most, left + (now - since) * rate)
        if left < 1:
            self._over("opens")
            raise OverBudget(
                f"tenant {tenant} may open {self.config.opens_a_minute:g} sessions a minute, "
                f"and the next one in {(1 - left) / rate:.1f} s"
            )
        if len(self._left) >= MOST_KNOWN:
            self._left = {name: kept for name, kept in self._left.items() if kept[0] + (now - kept[1]) * rate < most}
        self._left[tenant] = left - 1, now
