"""Whoever watches a session: they are told all that its walker is told, and have no effect on it."""

from __future__ import annotations

from collections.abc import Iterable

from services.generator.config import LiveConfig
from services.generator.live.outbox import Outbox
from worldkv.errors import OverBudget, WorldKVError
from worldkv.v1 import sessions_pb2 as pb


class Watchers:
    """The watchers of one session, each with what waits for it.

    Messages are shared by all of them, and never change. A watcher that takes them too slowly misses pictures, and its
    connection ends once `live.watch_behind` messages wait for it.
    """

    def __init__(self, config: LiveConfig) -> None:
        self.config = config
        self._outboxes: list[Outbox] = []

    def __len__(self) -> int:
        return len(self._outboxes)

    def join(self, messages: Iterable[pb.WalkResponse]) -> Outbox:
        """One more watches, and is told this first. Raises OverBudget if there are as many as may."""
        if len(self) >= self.config.watchers:
            raise OverBudget(f"{len(self)} watch this session already, as many as may")
        outbox = Outbox(self.config.behind_bytes, self.config.watch_behind, _nobody)
        for message in messages:
            outbox.put(message)
        self._outboxes.append(outbox)
        return outbox

    def leave(self, outbox: Outbox) -> None:
        """A watcher has gone."""
        if outbox in self._outboxes:
            self._outboxes.remove(outbox)

    def put(self, message: pb.WalkResponse) -> None:
        """Tell everybody."""
        for outbox in [*self._outboxes]:
            outbox.put(message)
            if outbox.full:
                outbox.end(OverBudget(f"{outbox.behind} messages wait for this watcher: watch again"), at_once=True)
                self.leave(outbox)

    def end(self, error: WorldKVError | None = None) -> None:
        """End all their connections after what waits, with an error or well."""
        for outbox in self._outboxes:
            outbox.end(error)
        self._outboxes.clear()


def _nobody() -> None:
    """Waits for a watcher."""
