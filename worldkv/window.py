"""The window a model attends to: fixed slots of whole chunks, batch first.

Which chunks stand where is decided before the model runs, by `plan`; the tensors are written by `Window`,
which moves only what changed since the last step. A slot's order in the window:

    [ sink | recalled ... | recent ... ] current

Slots are positions in memory, not in time: each chunk also has a time position, `original` (when it was made)
or `rebased` (the whole window, current chunk included, is renumbered from 0 at every step, so that positions
never leave the trained range). Empty slots are masked, so that sessions whose recall differs run as one batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from worldkv.chunk import ModelSpec
from worldkv.coding import DTYPES, KV
from worldkv.errors import InvalidConfig, OverBudget
from worldkv.rope import Rope, place_into

Placement = Literal["original", "rebased"]
GROWTH = 8
"""Chunks by which a window without eviction grows at a time."""


class Entry(NamedTuple):
    """A chunk at hand for the window, on any device.

    tag    tells this KV from any other (a chunk may be at hand raw and coded)
    begin  time of its first latent frame since the world began
    frames latent frames it spans in time, however many of its tokens are kept
    """

    tag: Hashable
    begin: int
    frames: int
    kv: KV


@dataclass(frozen=True)
class WindowConfig:
    """Latent frames of each part of the window (WorldKV section 4: 3 + 9 + 3 + 3; pocket: 3 + 6 + 3 + 3).

    recalled counts frame-equivalents of tokens: a chunk pruned to half its tokens counts half.
    """

    sink: int = 3
    recalled: int = 6
    recent: int = 3
    placement: Placement = "rebased"

    def __post_init__(self) -> None:
        for name in ("sink", "recalled", "recent"):
            if getattr(self, name) < 0:
                raise InvalidConfig(
                    f"window.{name} counts latent frames and must not be negative, got {getattr(self, name)}"
                )
        if self.placement not in ("original", "rebased"):
            raise InvalidConfig(f"window.placement is 'original' or 'rebased', got {self.placement!r}")

    def frames(self, current: int) -> int:
        """Frame-equivalents of the whole window with a current chunk of `current` frames."""
        return self.sink + self.recalled + self.recent + current


@dataclass(frozen=True, eq=False)
class View:
    """What one pass of a model attends to: rows of a window, one for each session of the batch.

    keys, values  [layers, batch, tokens, heads, head_dim]; keys are placed at their time position
    valid  [batch, tokens] bool
    position [batch] int64: time position of each session's current chunk
    whole  whether every token of every row is valid, so that no mask is needed

    `keys` and `values` hold leftovers in slots that are not valid: attend under the mask.
    """

    spec: ModelSpec
    keys: Tensor
    values: Tensor
    valid: Tensor
    position: Tensor
    whole: bool


class Window:
    """Slots for the chunks that sessions attend to, a row for each session.

    sizes  tokens of each slot
    keys, values, valid, position  of all rows, see `View`
    """

    def __init__(
        self, spec: ModelSpec, sizes: Sequence[int], batch: int = 1, device: str | torch.device = "cpu"
    ) -> None:
        self.spec, self.sizes, self.batch = spec, list(sizes), batch
        self.rope = Rope(*spec.rope, theta=spec.theta)
        shape = (spec.layers, batch, sum(sizes), spec.heads, spec.head_dim)
        dtype = DTYPES[spec.dtype]
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.valid = torch.zeros(batch, sum(sizes), dtype=torch.bool, device=device)
        self.position = torch.zeros(batch, dtype=torch.int64, device=device)
        self._begin = [sum(self.sizes[:i]) for i in range(len(sizes))]
        self._held: list[list[tuple[Hashable, int] | None]] = [[None] * len(sizes) for _ in range(batch)]
        self._used = [[0] * len(sizes) for _ in range(batch)]
        self.moved_tokens = 0

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, whether valid or not."""
        return self.keys.nbytes + self.values.nbytes

    def view(self, rows: Sequence[int], slots: int | None = None) -> View:
        """What a pass over these rows attends to, in this order. Costs no device synchronisation.

        slots  so many of the first slots; None: all of them

        A run of rows is seen where it lies, and changes with the window; other rows are copied together.
        """
        sizes = self.sizes[:slots]
        first, tokens, whole = rows[0], sum(sizes), all(self._used[row][:slots] == sizes for row in rows)
        keys, values, valid = self.keys[:, :, :tokens], self.values[:, :, :tokens], self.valid[:, :tokens]
        if list(rows) == list(range(first, first + len(rows))):
            run = slice(first, first + len(rows))
            return View(self.spec, keys[:, run], values[:, run], valid[run], self.position[run], whole)
        chosen = torch.tensor(rows, device=self.keys.device)
        keys, values = keys.index_select(1, chosen), values.index_select(1, chosen)
        return View(self.spec, keys, values, valid[chosen], self.position[chosen], whole)

    def fill(self, row: int, entries: Sequence[Entry | None], position: int, at: Sequence[int]) -> None:
        """Put a session's chunks into its row: entry i into slot i, at time `at[i]`; None empties a slot.

        A slot that already holds the same chunk at the same time is left as it is. Raises OverBudget if a
        chunk has more tokens than its slot.
        """
        for slot, (entry, time) in enumerate(zip(entries, at, strict=True)):
            self._put(row, slot, entry, time)
        for slot in range(len(entries), len(self.sizes)):
            self._put(row, slot, None, 0)
        self.position[row] = position

    def _put(self, row: int, slot: int, entry: Entry | None, time: int) -> None:
        wanted = None if entry is None else (entry.tag, time)
        if self._held[row][slot] == wanted:
            return
        begin, size = self._begin[slot], self.sizes[slot]
        used = 0 if entry is None else entry.kv.tokens
        if used > size:
            raise OverBudget(f"a chunk of {used} tokens does not fit slot {slot} of {size}")
        self._held[row][slot] = None  # whatever happens on the way: half a chunk is no chunk
        if entry is not None:
            place_into(self.keys[:, row, begin : begin + used], entry.kv.keys, self.rope, time)
            self.values[:, row, begin : begin + used] = entry.kv.values
            self.moved_tokens += used
        self.valid[row, begin : begin + used] = True
        self.valid[row, begin + used : begin + size] = False
        self._held[row][slot], self._used[row][slot] = wanted, used

    def grown(self, sizes: Sequence[int]) -> Window:
        """A window with more slots after the ones it has, holding the same chunks."""
        if list(sizes[: len(self.sizes)]) != self.sizes:
            raise InvalidConfig(f"a window grows at its end: {list(sizes)} does not begin with {self.sizes}")
        other = Window(self.spec, sizes, self.batch, self.keys.device)
        used = sum(self.sizes)
        other.keys[:, :, :used], other.values[:, :, :used] = self.keys, self.values
        other.valid[:, :used], other.position[:] = self.valid, self.position
        spare: list[tuple[Hashable, int] | None] = [None] * (len(sizes) - len(self.sizes))
        other._held = [row + spare for row in self._held]
        other._used = [row + [0] * len(spare) for row in self._used]
        return other


def positions(entries: Sequence[Entry | None], begin: int, placement: Placement) -> tuple[list[int], int]:
    """Time positions of a window's chunks, and of the current chunk, which begins at frame `begin`.

    Rebased, chunks count on from 0 in the order in which they are given, without gaps.
    """
    if placement == "original":
        return [0 if e is None else e.begin for e in entries], begin
    at, now = [], 0
    for entry in entries:
        at.append(now)
        now += 0 if entry is None else entry.frames
    return at, now
