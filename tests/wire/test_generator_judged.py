"""Drawn pictures beside the true ones: told in time, by the same measure as in evaluations, and of this world alone."""

import asyncio
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from services.generator.live.judging import MOST, Judge, Judges
from services.generator.recording import revisits
from services.generator.scenes import scene
from services.generator.truth import psnr, to_bytes
from services.generator.walks import BASELINE_GAP
from tests.toys import toy_spec
from tests.wire.generator import Stream, generating, inside
from worldkv.actions import Walker
from worldkv.chunk import ChunkKey, Part
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import poses_of

WALK = {"scene": "rooms:7", "tour": "R360", "judged": True}
LEFT, RIGHT = pb.Action(turn=-20.0), pb.Action(turn=20.0)


def floats(drawn: list[pb.Drawn]) -> torch.Tensor:
    """Pictures [pictures, 3, height, width]."""
    messages = [each for one in drawn for each in one.pictures]
    raw = [np.frombuffer(each.data, "<f4").reshape(each.height, each.width, 3) for each in messages]
    return torch.from_numpy(np.stack(raw)).permute(0, 3, 1, 2)


async def judged(walk: Stream, action: pb.Action) -> pb.Judged:
    """Draw a chunk, and wait for what is said of it."""
    await walk.move(action)
    verdict = await walk.next("judged")
    assert isinstance(verdict, pb.Judged)
    (drawn,) = (each.drawn for each in walk.told if each.drawn.key == verdict.key)
    assert drawn.pictures
    return verdict


@dataclass
class Expected:
    """What an evaluation would say of the same walk."""

    psnr: list[float]
    again: list[list[float]]


def evaluated(drawn: list[pb.Drawn], shown: int) -> Expected:
    poses = np.concatenate([poses_of(each.poses) for each in drawn])
    place = scene(toy_spec(), "rooms:7")
    assert place.pictures is not None
    truth = place.pictures([Walker.of(pose) for pose in poses])
    found = psnr(to_bytes(floats(drawn)), to_bytes(truth))
    again = {now for now, _ in revisits(poses, 3 * shown, BASELINE_GAP)}
    chunks = [range(3 * index, 3 * index + 3) for index in range(shown, len(drawn))]
    seen_again = [[float(found[n]) for n in each if n in again] for each in chunks]
    return Expected([float(found[each].mean()) for each in chunks], seen_again)


async def test_a_walk_is_judged_as_an_evaluation_judges_it():
    async with generating() as caller, caller.walk((await caller.open(**WALK)).session) as walk:
        verdicts = [await judged(walk, action) for action in [RIGHT] * 3 + [LEFT] * 4]
    drawn = [each.drawn for each in walk.told if each.HasField("drawn")]
    expected = evaluated(drawn, len(drawn) - 7)
    assert [each.psnr for each in verdicts] == pytest.approx(expected.psnr)
    assert [each.revisits for each in verdicts] == [len(each) for each in expected.again]
    assert sum(each.revisits for each in verdicts) > 3, "the tour has been all round"
    for verdict, again in zip(verdicts, expected.again, strict=True):
        assert verdict.revisit_psnr == pytest.approx(np.mean(again) if again else 0)
    for count, verdict in enumerate(verdicts, 1):
        so_far = [each for again in expected.again[:count] for each in again]
        assert verdict.mean_revisit_psnr == pytest.approx(np.mean(so_far) if so_far else 0)


async def test_only_who_asks_for_it_is_judged_and_only_what_was_drawn():
    async with generating() as caller:
        for wanted in (WALK | {"judged": False}, {"judged": True, "scene": "rooms:7"}):
            async with caller.walk((await caller.open(**wanted)).session) as walk:
                if wanted["judged"]:
                    assert (await judged(walk, RIGHT)).revisits == 0, "nothing was shown"
                else:
                    await walk.steps(15)
                    assert caller.made.live.find("default", walk.session)._judge is None


def means(verdicts: list[pb.Judged]) -> list[float]:
    return [number for each in verdicts for number in (each.revisits, each.psnr, each.mean_revisit_psnr)]


async def test_what_was_taken_back_does_not_count_and_what_was_shown_elsewhere_does():
    tiers = inside()
    async with generating(tiers) as first, generating(tiers) as second:
        session = (await first.open(**WALK)).session
        async with first.walk(session) as walk:
            before = [await judged(walk, action) for action in [RIGHT] * 3]
        shown = before[0].key.index
        await first.call("Rewind", session=session, at=shown)
        async with first.walk(session, 1 << 40) as walk:
            again = [await judged(walk, action) for action in [RIGHT] * 3]
        assert means(again) == pytest.approx(means(before), abs=1e-2)
        await first.call("Rewind", session=session, at=shown)
        await first.call("Suspend", session=session)
        await second.call("Resume", session=session)
        judge = second.made.live.find("default", session)._judge
        assert judge is not None
        assert judge._learning is not None
        await judge._learning
        async with second.walk(session, 1 << 40) as walk:
            elsewhere = [await judged(walk, action) for action in [RIGHT] * 3]
        assert means(elsewhere) == pytest.approx(means(before), abs=1e-2)


async def test_chunks_that_would_have_to_wait_are_left_out():
    told: list[pb.WalkResponse] = []
    judges, gate = Judges(), threading.Event()
    pictures = torch.zeros(1, 3, 4, 4)

    def render(walkers: object) -> torch.Tensor:
        gate.wait()
        return pictures

    judge = Judge(judges, render, 18, told.append)
    for index in range(2 * MOST):
        judge.drawn(ChunkKey(bytes(16), index), np.eye(4)[None], pictures, shown=False)
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*judge._under_way.values())
    assert [each.judged.key.index for each in told] == [*range(MOST)]
    assert not judges.busy
    judges.close()


async def test_a_judge_that_is_closed_looks_for_nothing_more():
    judges, asked = Judges(), asyncio.Event()

    async def part(index: int) -> Part:
        asked.set()
        return await asyncio.Future[Part]()

    judge = Judge(judges, lambda walkers: torch.zeros(len(walkers), 3, 4, 4), 18, lambda _: None)
    judge.learn(part, 100_000)
    await asked.wait()
    judge.close()
    assert judge._learning is not None
    await asyncio.wait([judge._learning])
    assert judge._learning.cancelled()
    judges.close()


async def test_a_session_that_is_closed_is_judged_no_more():
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        judge = caller.made.live.find("default", session)._judge
        assert judge is not None
        judge.learn(lambda index: asyncio.Future[Part](), 1)
        assert judge._learning is not None
        await caller.call("Close", session=session)
        await asyncio.wait([judge._learning])


async def test_a_truth_that_fails_is_told_once_and_left(caplog: pytest.LogCaptureFixture):
    def render(walkers: object) -> torch.Tensor:
        raise ValueError("no such view")

    judges = Judges()
    judge = Judge(judges, render, 18, lambda _: pytest.fail("nothing was found"))
    judge.drawn(ChunkKey(bytes(16), 0), np.eye(4)[None], torch.zeros(1, 3, 4, 4), shown=False)
    await asyncio.wait(judge._under_way.values())
    assert judge._under_way == {}
    assert not judges.busy
    assert "judge" in caplog.text
    judges.close()
