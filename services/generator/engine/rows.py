"""The windows that sessions share, and the passes over them: for one thread, the one that runs the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from services.generator.drawing import Draft, Drawn, draw, window_for
from services.generator.world_model import WorldModel
from worldkv.window import Window

Sizes = tuple[int, ...]


class Rows:
    """A window with rows for a number of sessions, which stay theirs for as long as there is room.

    most  rows, at most; there are as many as there were sessions at a time
    """

    def __init__(self, model: WorldModel, sizes: Sizes, most: int) -> None:
        self.model, self.sizes, self.most = model, sizes, most
        self.window: Window | None = None
        self._row: OrderedDict[Hashable, int] = OrderedDict()  # by owner, drawn least recently first

    def __len__(self) -> int:
        return len(self._row)

    def of(self, owners: Sequence[Hashable]) -> tuple[Window, list[int]]:
        """The window, and each owner's row; other owners' rows may be taken for it. At most `most` owners."""
        for owner in owners:
            if owner in self._row:
                self._row.move_to_end(owner)
        for owner in owners:
            if owner not in self._row:
                self._row[owner] = self._free_row(owners)
        needed = 1 + max(self._row.values())
        if self.window is None or self.window.batch < needed:
            # What stood in it is moved in again: there need not be room for both.
            self.window = None
            self.window = Window(self.model.spec, self.sizes, needed, self.model.device)
        return self.window, [self._row[owner] for owner in owners]

    def forget(self, owner: Hashable) -> None:
        self._row.pop(owner, None)

    def _free_row(self, needed: Sequence[Hashable]) -> int:
        """The lowest row that is free, so that a batch's rows lie together; else that of who was drawn longest ago."""
        taken = set(self._row.values())
        if len(taken) < self.most:
            return next(row for row in range(self.most) if row not in taken)
        oldest = next(owner for owner in self._row if owner not in needed)
        return self._row.pop(oldest)


class Easel:
    """Draws batches, keeping windows from step to step.

    most_rows  of the window that sessions of one shape share
    """

    def __init__(self, model: WorldModel, most_rows: int) -> None:
        self.model, self.most_rows = model, most_rows
        self._shared: dict[Sizes, Rows] = {}
        self._growing: dict[Hashable, Window] = {}

    @property
    def nbytes(self) -> int:
        """Of all windows."""
        windows = [rows.window for rows in [*self._shared.values()]]
        return sum(window.nbytes for window in [*windows, *self._growing.values()] if window)

    def draw(self, owners: Sequence[Hashable], drafts: Sequence[Draft]) -> list[Drawn]:
        """Draw drafts of one shape together, one for each owner; those of a window that grows come one by one."""
        shape = drafts[0].shape
        if shape.grows:
            (owner,) = owners
            window = self._growing[owner] = window_for(self.model, shape.sizes, self._growing.get(owner))
            return draw(self.model, window, [0], drafts)
        if shape.sizes not in self._shared:
            self._shared[shape.sizes] = Rows(self.model, shape.sizes, self.most_rows)
        window, rows = self._shared[shape.sizes].of(owners)
        order = sorted(range(len(rows)), key=rows.__getitem__)  # a run of rows is seen where it lies
        drawn = draw(self.model, window, [rows[i] for i in order], [drafts[i] for i in order])
        return [drawn[order.index(i)] for i in range(len(rows))]

    def forget(self, owner: Hashable) -> None:
        """An owner's row is free; a window goes with its last owner."""
        self._growing.pop(owner, None)
        for sizes, rows in [*self._shared.items()]:
            rows.forget(owner)
            if not len(rows):
                del self._shared[sizes]
