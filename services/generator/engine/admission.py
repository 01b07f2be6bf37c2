"""Who is let in: sessions are admitted while all of them have room on the model's device, and time in its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import NamedTuple

from services.generator.engine.config import EngineConfig
from services.generator.modes import SessionConfig, slot_sizes
from worldkv.chunk import ModelSpec
from worldkv.coding import Coding, stored_tokens
from worldkv.errors import OverBudget


class Needs(NamedTuple):
    """What a session takes on the model's device.

    sizes  tokens of each slot of its window
    row    bytes of its row of a window
    held   bytes of the uncoded chunks that stand in it, at most; of a window that grows, until it first grows
    grows  its window gets more slots from time to time, and is its own
    """

    sizes: tuple[int, ...]
    row: int
    held: int
    grows: bool


def needs(spec: ModelSpec, config: SessionConfig, coding: Coding, chunks: int = 0) -> Needs:
    """What a session that walks so takes, where chunks are stored so; `chunks`: of its world so far."""
    tokens, window = stored_tokens(coding, spec), config.window
    sizes = slot_sizes(spec, config, [tokens] * (window.recalled * spec.frame_tokens // tokens), chunks)
    chunks = len(sizes)
    if config.mode == "worldkv":
        chunks = window.sink // spec.frames + window.recent // spec.frames
    return Needs(sizes, _row(spec, sizes), chunks * spec.raw_bytes, config.mode == "full")


def _row(spec: ModelSpec, sizes: tuple[int, ...]) -> int:
    return sum(sizes) * spec.raw_bytes // (spec.frames * spec.frame_tokens)


class Admission:
    """Sessions that were let in.

    state   bytes of the model's device that each session takes besides its window (`WorldModel.state_bytes`)
    drawing  that a pass for so many sessions takes (`WorldModel.drawing_bytes`)
    latest  what the one that came last takes; None: nobody came yet
    """

    def __init__(
        self, spec: ModelSpec, config: EngineConfig, state: int = 0, drawing: Callable[[int], int] = lambda sessions: 0
    ) -> None:
        self.spec, self.config, self.state, self.drawing = spec, config, state, drawing
        self.latest: Needs | None = None
        self._needs: dict[Hashable, Needs] = {}

    def __len__(self) -> int:
        return len(self._needs)

    @property
    def nbytes(self) -> int:
        """Bytes that everybody who was let in takes at most."""
        return self._bytes([*self._needs.values()])

    def admit(self, owner: Hashable, wanted: Needs, step_seconds: float) -> None:
        """Let a session in, once. `step_seconds`: of a whole batch, 0: not known yet.

        Raises OverBudget saying what there would be too much of.
        """
        if owner in self._needs:
            return
        if reason := self._refusal(1, wanted, step_seconds):
            raise OverBudget(reason)
        self._needs[owner] = self.latest = wanted

    def change(self, owner: Hashable, wanted: Needs, step_seconds: float) -> None:
        """A session that was let in takes something else from now on. Raises OverBudget: then nothing has changed."""
        before = self._needs.pop(owner, None)
        reason = self._refusal(1, wanted, step_seconds) if wanted != before else ""
        if reason and before is not None:
            self._needs[owner] = before
        if reason:
            raise OverBudget(reason)
        self._needs[owner] = wanted

    def grow(self, owner: Hashable, sizes: tuple[int, ...]) -> None:
        """A session's own window is to have these slots. Raises OverBudget if there is no room for it."""
        before = self._needs.get(owner)
        if before is None or before.sizes == sizes:
            return
        after = Needs(sizes, _row(self.spec, sizes), len(sizes) * self.spec.raw_bytes, grows=True)
        nbytes = self._bytes([after if who == owner else each for who, each in self._needs.items()])
        if self.config.resident_bytes and nbytes > self.config.resident_bytes:
            raise OverBudget(
                f"a window of {len(sizes)} chunks makes {nbytes} bytes of the model's device, "
                f"over its budget of {self.config.resident_bytes}"
            )
        self._needs[owner] = after

    def release(self, owner: Hashable) -> None:
        """A session has gone."""
        self._needs.pop(owner, None)

    def room(self, wanted: Needs, step_seconds: float) -> int:
        """How many more such sessions would be let in."""
        most = self.config.most_sessions - len(self)
        return next((n for n in range(most) if self._refusal(n + 1, wanted, step_seconds)), max(most, 0))

    def _refusal(self, more: int, wanted: Needs, step_seconds: float) -> str:
        """What speaks against so many more sessions; nothing if it is empty."""
        c, count = self.config, len(self) + more
        if count > c.most_sessions:
            return f"{count} sessions are over the limit of {c.most_sessions}"
        everybody = [*self._needs.values(), *[wanted] * more]
        nbytes = self._bytes(everybody)
        if c.resident_bytes and nbytes > c.resident_bytes:
            return f"{count} sessions take {nbytes} bytes of the model's device, over its budget of {c.resident_bytes}"
        groups = Counter(each.sizes for each in everybody if not each.grows)
        passes = sum(-(-size // c.batch) for size in groups.values()) + sum(each.grows for each in everybody)
        seconds = passes * step_seconds
        if c.round_seconds and count > 1 and seconds > c.round_seconds:
            return (
                f"drawing a chunk for each of {count} sessions takes {passes} steps of {step_seconds:.3g} s, "
                f"{seconds:.3g} s in all, over the limit of {c.round_seconds:.3g} s"
            )
        return ""

    def _bytes(self, everybody: list[Needs]) -> int:
        """Rows are shared out among sessions of the same sizes; uncoded chunks and states are each session's own; and
        as many as a pass draws for are drawn at a time."""
        groups = Counter((each.sizes, each.row) for each in everybody if not each.grows)
        rows = sum(row * min(size, self.config.rows) for (_, row), size in groups.items())
        drawn = self.drawing(min(len(everybody), self.config.batch)) if everybody else 0
        return rows + drawn + sum(each.held + each.row * each.grows + self.state for each in everybody)
