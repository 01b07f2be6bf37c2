"""Chunks seen again, and worlds as files, as a user of the service gets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Literal, NamedTuple

from worldkv import wire
from worldkv.chunk import ChunkKey
from worldkv.client.pictures import Pictures, pictures_of
from worldkv.client.walk_line import Link
from worldkv.errors import Unavailable
from worldkv.pose import Matrix
from worldkv.rpc import translated
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import counted, poses_of

Kept = Literal["kept", "demoted", "missing", "unknown"]
_KEPT: Mapping[int, Kept] = {
    pb.CHUNK_STATE_KEPT: "kept",
    pb.CHUNK_STATE_DEMOTED: "demoted",
    pb.CHUNK_STATE_MISSING: "missing",
}
ALL = 1 << 16
"""More pictures than a chunk has."""


class Seen(NamedTuple):
    """A chunk, seen again.

    key       its name
    poses     [frames, 4, 4] of its latent frames; none if it is missing
    kept      what of it: "kept", its keys and values; "demoted", its latents alone; "missing"; "unknown" just now
    pictures  [pictures, height, width, 3] uint8, as many as were asked for
    pictures_per_second  at which the world is meant to be played
    """

    key: ChunkKey
    poses: Matrix
    kept: Kept
    pictures: Pictures
    pictures_per_second: float


async def looked(
    link: Link, session: str, at: int, count: int, height: int, pictures: int | None
) -> AsyncGenerator[Seen, None]:
    """Chunks of a session's world, by either of its ids; see `Walk.look`."""
    request = pb.LookRequest(
        session=session,
        at=counted("at", at),
        count=counted("count", count),
        height=height,
        pictures=ALL if pictures is None else pictures,
    )
    async with aclosing(_streamed(link, link.stub.Look(request, metadata=link.metadata))) as answers:
        async for answer in answers:
            yield Seen(
                wire.chunk_of(answer.key),
                poses_of(answer.poses),
                _KEPT.get(answer.state, "unknown"),
                await asyncio.to_thread(pictures_of, answer.pictures, 0, 0),
                answer.pictures_per_second,
            )


async def exported(link: Link, world: str) -> AsyncGenerator[bytes, None]:
    """The pieces of a world's file; see `WalkClient.export`."""
    call = link.stub.Export(pb.ExportRequest(world=world), metadata=link.metadata)
    async with aclosing(_streamed(link, call)) as answers:
        async for answer in answers:
            yield answer.data


async def _streamed(link: Link, call: Any) -> AsyncGenerator[Any, None]:
    """All answers. Raises what the service raised, Unavailable in plain words if nobody is there."""
    try:
        with translated():
            async for answer in call:
                yield answer
    except Unavailable as error:
        raise link.plain(error) from error
    finally:
        call.cancel()
