"""What a walk tells its user: frozen results, made of the messages of `Walk`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from worldkv import wire
from worldkv.actions import Walker
from worldkv.catalog import World
from worldkv.chunk import ChunkKey
from worldkv.client.pictures import Pictures, pictures_of
from worldkv.errors import InvalidInput
from worldkv.pose import Matrix
from worldkv.store import Level, Miss
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import MemoryChange, Mode, change_of, mode_of, poses_of, walker_of


class Choices(NamedTuple):
    """What a session's memory can be told.

    now    what it is told now, all of it
    selectors, codecs  by name
    slots  of the window for recalled chunks
    """

    now: MemoryChange
    selectors: tuple[str, ...]
    codecs: tuple[str, ...]
    slots: int


@dataclass(frozen=True)
class Opened:
    """A session to walk in.

    session   its id, for `join`: hard to guess
    world     with the session's own branch at its head
    model     that draws
    next      number of the next chunk to be drawn
    walker    where the walker stands
    frames    latent frames of a chunk: as many actions make a move
    pictures  of a chunk
    height, width  of a picture, pixels
    pictures_per_second  at which the world is meant to be played
    memory    how it remembers, nothing missing, and how it could
    scene     what its world began as
    seed      of the noise
    has_truth  the scene has true pictures: tours can be shown and pictures judged
    watch     by this id others may watch it, and do nothing else
    """

    session: str
    world: World
    model: str
    next: int
    walker: Walker
    frames: int
    pictures: int
    height: int
    width: int
    pictures_per_second: float
    memory: Choices
    scene: str
    seed: int
    has_truth: bool
    watch: str


class Recalled(NamedTuple):
    """A chunk that was put back into the window.

    score      the selector's measure: best is 1, higher is better
    reencoded  whether its keys and values were made again from its latents
    distance   from the nearest of its cameras to the walker's, units
    angle      between the directions of the same two, degrees
    overlap    of what the walker was expected to see, the share that it had seen, 0..1
    """

    key: ChunkKey
    score: float
    reencoded: bool
    distance: float = 0.0
    angle: float = 0.0
    overlap: float = 0.0


class Missed(NamedTuple):
    """A chunk that was named for recall and did not stand in the window, and why."""

    key: ChunkKey
    reason: Miss


class Spent(NamedTuple):
    """Where the time of a chunk went, seconds; what ran beside something else, only as far as the walk waited.

    turn      for its turn on the model
    lookup    for the index
    fetch     for bytes from the store
    decode    for keys and values to be decoded, or made again
    place     for them to be placed in the window
    draw      for the model
    keep      for the immutable part to be kept
    pictures  for the pictures to be coded
    """

    turn: float
    lookup: float
    fetch: float
    decode: float
    place: float
    draw: float
    keep: float
    pictures: float


class Held(NamedTuple):
    """Bytes that a session's memory takes.

    window  on the model's device: its row of the window, and the uncoded chunks that stand in it
    hot     at hand on the generator
    queued  on their way to the store
    stored  in the store, as far as this session put them there
    """

    window: int
    hot: int
    queued: int
    stored: int


@dataclass(frozen=True)
class Counts:
    """What became of recall, and of fetches ahead of the camera, since the session came to its generator.

    recalled       chunks put back into the window
    at_hand        of these, without a fetch for the step
    fetched_bytes  coded bytes from the store
    used, early    fetched ahead and recalled: when expected, or later
    late           recalled while the fetch ahead was under way
    wasted         fetched ahead and let go of
    unforeseen     recalled without having been asked for ahead, and not at hand
    missed         named for recall and not at hand in time, by reason; no reason with none
    reencoded      made again from latents
    unanswered     steps that recalled nothing because the index did not answer
    abstained      slots that the selector left empty
    kv_dropped     chunks whose keys and values were dropped before they were kept
    """

    recalled: int = 0
    at_hand: int = 0
    fetched_bytes: int = 0
    used: int = 0
    early: int = 0
    late: int = 0
    wasted: int = 0
    unforeseen: int = 0
    missed: Mapping[Miss, int] = field(default_factory=dict)
    reencoded: int = 0
    unanswered: int = 0
    abstained: int = 0
    kv_dropped: int = 0


@dataclass(frozen=True, eq=False)
class Drawn:
    """A chunk that was drawn.

    number    of the move or show that it answers; 0: it answers none
    pictures  [pictures, height, width, 3], in order of time: bytes, or floats in 0..1 if they were asked for
    poses     [frames, 4, 4] camera-to-world
    walker    where the walker stands now
    recalled  for it
    left_out  wanted chunks that did not come in time
    seconds   from its move to its pictures
    recall_seconds    of these, waiting for memory
    pictures_dropped  they were taken more slowly than they were drawn, and left out
    counts    how memory has served so far
    missed    named for recall and not in the window
    demoted   chunks of which the latents alone are left, since the chunk before
    spent     where the seconds went
    held      what the session's memory takes now
    mode      what stood in the window
    """

    key: ChunkKey
    number: int
    pictures: Pictures
    poses: Matrix
    walker: Walker
    recalled: tuple[Recalled, ...]
    left_out: int
    seconds: float
    recall_seconds: float
    pictures_dropped: bool
    counts: Counts
    missed: tuple[Missed, ...]
    demoted: tuple[ChunkKey, ...]
    spent: Spent
    held: Held
    mode: Mode


class Remembered(NamedTuple):
    """How far the world is safe: all chunks before `end`, at least at `level`; None: none yet."""

    end: int
    level: Level | None


class NoticeKind(Enum):
    """What a user may want to be told; the last two are the client's own."""

    OTHER = "other"
    PAUSED = "paused"
    RESUMED = "resumed"
    LEVEL_CHANGED = "level changed"
    KV_DROPPED = "kv dropped"
    RECALL_DOWN = "recall down"
    RECALL_UP = "recall up"
    MOVED = "moved"
    DISCONNECTED = "disconnected"
    RECONNECTED = "reconnected"


class Notice(NamedTuple):
    """Something happened.

    chunk  number from which on it holds
    text   in words, for people; may be empty
    """

    kind: NoticeKind
    chunk: int
    text: str


class Applied(NamedTuple):
    """The move, show, hold or change `number` takes effect, from a chunk on."""

    number: int
    chunk: int


class Refused(NamedTuple):
    """The change `number` was refused, and why; nothing changed."""

    number: int
    text: str


class Judged(NamedTuple):
    """How a drawn chunk compares with the truth.

    psnr     its pictures against the true ones, dB
    revisit_psnr  the same over those that show a place again; None: none does
    revisits      how many of its pictures do
    mean_revisit_psnr  over all pictures of the session so far that do; None: none did
    """

    key: ChunkKey
    psnr: float
    revisit_psnr: float | None
    revisits: int
    mean_revisit_psnr: float | None


Event = Drawn | Remembered | Notice | Applied | Refused | Judged


def opened_of(message: pb.OpenResponse) -> Opened:
    """Raises InvalidInput for one that makes no sense."""
    if not message.frames:
        raise InvalidInput("a session has frames, and this one has none")
    return Opened(
        session=message.session,
        world=wire.world_of(message.world),
        model=message.model,
        next=message.next,
        walker=walker_of(message.walker),
        frames=message.frames,
        pictures=message.pictures,
        height=message.height,
        width=message.width,
        pictures_per_second=message.pictures_per_second,
        memory=choices_of(message.memory),
        scene=message.scene,
        seed=message.seed,
        has_truth=message.has_truth,
        watch=message.watch,
    )


def choices_of(message: pb.MemoryChoices) -> Choices:
    return Choices(change_of(message.now), tuple(message.selectors), tuple(message.codecs), message.slots)


def drawn_of(message: pb.Drawn, height: int, width: int) -> Drawn:
    """The chunk, its pictures decoded; where there are none they are none of this size. Raises as `pictures_of`."""
    return Drawn(
        key=wire.chunk_of(message.key),
        number=message.number,
        pictures=pictures_of(message.pictures, height, width),
        poses=poses_of(message.poses),
        walker=walker_of(message.walker),
        recalled=tuple(
            Recalled(wire.chunk_of(r.key), r.score, r.reencoded, r.distance, r.angle, r.overlap)
            for r in message.recalled
        ),
        left_out=message.left_out,
        seconds=message.seconds,
        recall_seconds=message.recall_seconds,
        pictures_dropped=message.pictures_dropped,
        counts=_counts_of(message.counts),
        missed=tuple(Missed(wire.chunk_of(each.key), wire.miss_of(each.reason)) for each in message.missed),
        demoted=tuple(map(wire.chunk_of, message.demoted)),
        spent=Spent(*(getattr(message.spent, name) for name in Spent._fields)),
        held=Held(*(getattr(message.held, name) for name in Held._fields)),
        mode=mode_of(message.mode),
    )


def remembered_of(message: pb.Remembered) -> Remembered:
    return Remembered(message.end, wire.level_of(message.level))


def notice_of(message: pb.Notice) -> Notice:
    return Notice(_NOTICES.get(message.kind, NoticeKind.OTHER), message.chunk, message.text)


def applied_of(message: pb.Applied) -> Applied:
    return Applied(message.number, message.chunk)


def refused_of(message: pb.Refused) -> Refused:
    return Refused(message.number, message.text)


def judged_of(message: pb.Judged) -> Judged:
    again, mean = (message.revisit_psnr if message.revisits else None), (message.mean_revisit_psnr or None)
    return Judged(wire.chunk_of(message.key), message.psnr, again, message.revisits, mean)


def _counts_of(message: pb.RecallCounts) -> Counts:
    missed = {miss: count for miss in Miss if (count := getattr(message.missed, miss.name.lower()))}
    plain = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields if field.name != "missed"}
    return Counts(missed=missed, **plain)


_NOTICES: dict[int, NoticeKind] = {
    pb.NOTICE_KIND_PAUSED: NoticeKind.PAUSED,
    pb.NOTICE_KIND_RESUMED: NoticeKind.RESUMED,
    pb.NOTICE_KIND_LEVEL_CHANGED: NoticeKind.LEVEL_CHANGED,
    pb.NOTICE_KIND_KV_DROPPED: NoticeKind.KV_DROPPED,
    pb.NOTICE_KIND_RECALL_DOWN: NoticeKind.RECALL_DOWN,
    pb.NOTICE_KIND_RECALL_UP: NoticeKind.RECALL_UP,
    pb.NOTICE_KIND_MOVED: NoticeKind.MOVED,
}
