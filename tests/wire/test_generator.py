"""Walks over the wire: every call, field and notice does what the protos say."""

import pytest

from tests.wire.generator import generating, pictures
from worldkv.errors import NotFound


async def test_a_walk_from_open_to_close():
    async with generating() as caller:
        opened = await caller.open(scene="rooms:7", world="harbour")
        assert (opened.world.name, opened.next, opened.model, opened.frames, opened.pictures) == (
            "harbour",
            0,
            "pocket",
            3,
            3,
        )
        async with caller.walk(opened.session) as walk:
            joined = await walk.next("joined")
            assert joined == opened
            drawn = await walk.steps(6)
        assert [each.key.index for each in drawn] == list(range(6))
        assert {each.key.branch for each in drawn} == {opened.world.lineage.parts[-1].branch}
        assert len(set(pictures(drawn))) == 18
        assert drawn[-1].counts.recalled > 0
        closed = await caller.call("Close", session=opened.session)
        assert (closed.remembered.end, closed.world.chunks, closed.world.name) == (6, 6, "harbour")
        with pytest.raises(NotFound):
            await caller.call("Close", session=opened.session)
