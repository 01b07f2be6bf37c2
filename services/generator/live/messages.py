"""What is told to walking clients: one conversion from nouns to messages."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from services.generator.session import Step
from services.generator.settings import Choices, Settings
from worldkv import wire
from worldkv.actions import Walker
from worldkv.chunk import ChunkKey
from worldkv.errors import WorldKVError
from worldkv.memory import Kept, MemoryStats
from worldkv.select import Likeness
from worldkv.store import Miss
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import MODES, change_message, pose_messages, walker_message

MISSES = {
    Miss.NEVER_STORED: "never_stored",
    Miss.EVICTED: "evicted",
    Miss.DELETED: "deleted",
    Miss.LATE: "late",
    Miss.TIER_DOWN: "tier_down",
    Miss.CORRUPT: "corrupt",
}
"""Fields of `MissCounts`."""


def applied(number: int, chunk: int) -> pb.WalkResponse:
    return pb.WalkResponse(applied=pb.Applied(number=number, chunk=chunk))


def refused(number: int, why: WorldKVError) -> pb.WalkResponse:
    return pb.WalkResponse(refused=pb.Refused(number=number, text=str(why)))


def choices(choices: Choices, now: Settings) -> pb.MemoryChoices:
    return pb.MemoryChoices(
        now=change_message(now.change), selectors=choices.selectors, codecs=choices.codecs, slots=choices.slots
    )


def notice(kind: pb.NoticeKind.ValueType, chunk: int, text: str = "") -> pb.WalkResponse:
    return pb.WalkResponse(notice=pb.Notice(kind=kind, chunk=chunk, text=text))


def remembered(kept: Kept) -> pb.Remembered:
    return pb.Remembered(end=kept.end, level=wire.level_message(kept.level if kept.end else None))


def drawn(
    key: ChunkKey,
    step: Step,
    alike: Sequence[Likeness],
    walker: Walker,
    number: int,
    pictures: Sequence[pb.Picture],
    seconds: float,
    turn_seconds: float,
    pictures_seconds: float,
    counts: pb.RecallCounts,
) -> pb.WalkResponse:
    """A chunk. `seconds` and `number` as in `Drawn`, and of these seconds two that no step knows of.

    alike   what was recalled for it, beside its view
    walker  stands where the chunk ends
    """
    recalled = (
        pb.RecalledChunk(
            key=wire.chunk_message(each.hit.key),
            score=each.hit.score,
            reencoded=each.entry.tag == (each.hit.key, True),
            distance=like.distance,
            angle=like.angle,
            overlap=like.overlap,
        )
        for each, like in zip(step.recalled, alike, strict=True)
    )
    missed = (
        pb.MissedChunk(key=wire.chunk_message(each), reason=wire.miss_message(why)) for each, why in step.missed.items()
    )
    return pb.WalkResponse(
        drawn=pb.Drawn(
            key=wire.chunk_message(key),
            number=number,
            pictures=pictures,
            poses=pose_messages(step.poses),
            walker=walker_message(walker),
            recalled=recalled,
            left_out=sum(why is Miss.LATE for why in step.missed.values()),
            seconds=seconds,
            recall_seconds=step.seconds.recall,
            counts=counts,
            missed=missed,
            demoted=map(wire.chunk_message, step.let_go),
            spent=pb.StepSeconds(turn=turn_seconds, pictures=pictures_seconds, **step.seconds._asdict()),
            held=pb.HeldBytes(**step.held._asdict()),
            mode=MODES[step.mode],
        )
    )


def counts(stats: MemoryStats, before: pb.RecallCounts | None = None) -> pb.RecallCounts:
    """How memory has served, in all: what it counted since it was made, and what was counted before."""
    ahead = stats.ahead
    now = pb.RecallCounts(
        recalled=stats.recalled,
        at_hand=stats.at_hand,
        fetched_bytes=stats.fetched_bytes,
        used=ahead.used,
        early=ahead.early,
        late=ahead.late,
        wasted=ahead.wasted,
        unforeseen=ahead.unforeseen,
        missed=pb.MissCounts(**{MISSES[miss]: count for miss, count in stats.missed.items()}),
        reencoded=stats.reencoded,
        unanswered=stats.unanswered,
        abstained=stats.abstained,
        kv_dropped=stats.dropped,
    )
    if before is not None:
        _add(now, before)
    return now


def _add(to: Message, other: Message) -> None:
    """Add the numbers of a message to those of another."""
    for field, value in other.ListFields():
        if isinstance(value, Message):
            _add(getattr(to, field.name), value)
        else:
            setattr(to, field.name, getattr(to, field.name) + value)
