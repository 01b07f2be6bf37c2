"""What one session saw, and what many of them say together: figures without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.serve.viewer import Played
from worldkv.client.walk_events import Counts, Drawn, Held, Spent
from worldkv.store import Miss

SPLIT = ("lookup", "fetch", "decode", "place")
"""Parts of recall, see `Spent`."""
TIERS = Held._fields


@dataclass
class Visited:
    """What one session saw.

    counted  it came after the load had settled: what is said of beginnings is said of these
    late     seconds after its time that it began, through no fault of the service
    first    seconds from its time to its first chunk, or that it had waited for it in vain when all was over; None: it
             was refused
    refused  it was not let in: by what kind of error
    failed   it was let in, and ended by an error
    played, spent   of each chunk that is measured
    before, after   counts of recall as measuring began, and at the end
    held     bytes by tier at the end
    unanswered  seconds that moves had been due which had no chunk when it ended, while it was not over
    """

    counted: bool = True
    late: float = 0.0
    first: float | None = None
    refused: str | None = None
    failed: str | None = None
    played: list[Played] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)
    before: Counts | None = None
    after: Counts | None = None
    held: Held | None = None
    unanswered: list[float] = field(default_factory=list)

    def saw(self, played: Played, drawn: Drawn, measured: bool) -> None:
        """A chunk has come. `measured`: its window is full, and the load has settled."""
        self.held = drawn.held
        if not measured:
            self.before = drawn.counts
            return
        self.after = drawn.counts
        self.played.append(played)
        self.spent.append(drawn.spent)


@dataclass(frozen=True)
class Summary:
    """What sessions that arrived at one rate say together. Times are seconds, and None where nobody measured any.

    rate       sessions that were to arrive a second
    walking    mean number of sessions at a time
    sessions   that arrived once the load had settled, and of these
    refused, failed  by kind of error
    chunks     that were measured
    first, latency, action  quantiles 0.5, 0.95 and 0.99 of: arrival to first chunk, move to chunk, move to picture
    attained   share of chunks that were there when it was their turn to be shown
    stalled    seconds that viewers waited, a minute of playing
    split      mean seconds a chunk that its walk waited for each part of recall
    hit, late, abstained  shares of recalled chunks that were at hand, of wanted ones that came too late, and of slots
               that stayed empty
    held       mean bytes of a session by tier, at its end
    lag        0.99 quantile of what sessions began after their time: the load's own delay, not the service's
    """

    rate: float
    walking: float
    sessions: int
    refused: dict[str, int]
    failed: dict[str, int]
    chunks: int
    first: tuple[float, ...] | None
    latency: tuple[float, ...] | None
    action: tuple[float, ...] | None
    attained: float | None
    stalled: float | None
    split: dict[str, float]
    hit: float | None
    late: float | None
    abstained: float | None
    held: dict[str, float]
    lag: float


def summary(rate: float, walking: float, visits: Sequence[Visited], playing: float) -> Summary:
    """Figures of the sessions that arrived at a rate, `walking` of them at a time; a chunk plays `playing` seconds.

    A move that was due longer than its chunk may take, and has none, counts by the time that it had waited: slow
    chunks must not be missing because they were slow.
    """
    came = [visit for visit in visits if visit.counted]
    played = [each for visit in visits for each in visit.played]
    overdue = [seconds for visit in visits for seconds in visit.unanswered if seconds > playing]
    spent = [each for visit in visits for each in visit.spent]
    held = [visit.held for visit in visits if visit.held is not None]
    counts = [(visit.before or Counts(), visit.after) for visit in visits if visit.after is not None]
    recalled = sum(after.recalled - before.recalled for before, after in counts)
    at_hand = sum(after.at_hand - before.at_hand for before, after in counts)
    late = sum(after.missed.get(Miss.LATE, 0) - before.missed.get(Miss.LATE, 0) for before, after in counts)
    empty = sum(after.abstained - before.abstained for before, after in counts)
    answered = len(played) + len(overdue)
    return Summary(
        rate=rate,
        walking=walking,
        sessions=len(came),
        refused=dict(Counter(visit.refused for visit in came if visit.refused)),
        failed=dict(Counter(visit.failed for visit in visits if visit.failed)),
        chunks=answered,
        first=quantiles(visit.first for visit in came if visit.first is not None),
        latency=quantiles([*(each.latency for each in played), *overdue]),
        action=quantiles([*(each.action for each in played), *overdue]),
        attained=_share(sum(each.stall <= 0 for each in played), answered),
        stalled=_share(60 * (sum(each.stall for each in played) + sum(overdue)), len(played) * playing),
        split={part: float(np.mean([getattr(each, part) for each in spent])) if spent else 0.0 for part in SPLIT},
        hit=_share(at_hand, recalled),
        late=_share(late, recalled + late),
        abstained=_share(empty, recalled + empty),
        held={tier: float(np.mean([getattr(each, tier) for each in held])) if held else 0.0 for tier in TIERS},
        lag=float(np.quantile([visit.late for visit in visits], 0.99)) if visits else 0.0,
    )


def quantiles(values: Iterable[float]) -> tuple[float, ...] | None:
    """0.5, 0.95 and 0.99; None of nothing."""
    found = [*values]
    return tuple(float(each) for each in np.quantile(found, (0.5, 0.95, 0.99))) if found else None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
