from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.rolling_cache import RollingCache
from services.generator.session import Session, SessionConfig
from tests.toys import TOY, toy_model
from worldkv.actions import Action, Walker
from worldkv.chunk import Lineage
from worldkv.coding import Coding
from worldkv.errors import Conflict, InvalidConfig, InvalidInput
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.select import make_selector
from worldkv.store import PartKey, RamStore
from worldkv.window import WindowConfig

START = Walker(6.0, 6.0)
TURN = Action(turn=20.0)


def memory_of(model, window: WindowConfig, selector: str = "pose", **config: object) -> Memory:
    coding, lineage = config.pop("coding", Coding("raw", "raw")), Lineage.begin()
    finder = LocalFinder(ScanIndex(), make_selector(selector, 0), lineage)
    return Memory(model.spec, window, MemoryConfig(coding=coding, **config), RamStore(1 << 30), finder, lineage)


def session_of(mode: str, window: WindowConfig | None = None, selector: str = "pose", **memory: object) -> Session:
    model, window = toy_model(), window or WindowConfig()
    config = SessionConfig(mode=mode, window=window, seed=3, context=memory.pop("context", "window"))
    return Session(model, config, START, memory_of(model, window, selector, **memory) if mode == "worldkv" else None)


async def pictures_of(session: Session, chunks: int) -> torch.Tensor:
    return torch.cat([(await session.step(TURN)).pictures for _ in range(chunks)])


def drawn_by_rolling_cache(chunks: int) -> torch.Tensor:
    """The same walk by the oracle, from the session's noise."""
    model, session = toy_model(), session_of("full")
    cache = RollingCache(model.model, model.levels)
    walker, drawn = START, []
    for index in range(chunks):
        poses = []
        for _ in range(3):
            walker = walker.after(TURN)
            poses.append(walker.pose)
        drawn.append(cache.draw(torch.from_numpy(np.stack(poses)).float(), session.noise(index)))
    return (torch.cat(drawn) + 1) / 2


async def test_full_equals_a_cache_that_never_evicts() -> None:
    drawn = await pictures_of(session_of("full"), 12)  # 12 chunks: the window has grown once
    assert (drawn - drawn_by_rolling_cache(12)).abs().max() <= 1e-5


async def test_recalling_everything_uncoded_equals_a_cache_that_never_evicts() -> None:
    everything = WindowConfig(recalled=30, placement="original")
    drawn = await pictures_of(session_of("worldkv", everything, "latest"), 12)
    assert (drawn - drawn_by_rolling_cache(12)).abs().max() <= 1e-5


async def test_a_window_forgets_what_has_left_it() -> None:
    drawn = await pictures_of(session_of("window"), 8)
    assert (drawn - drawn_by_rolling_cache(8)).abs().max() > 1e-4


async def test_the_same_seed_and_actions_draw_the_same_walk() -> None:
    assert torch.equal(await pictures_of(session_of("worldkv"), 8), await pictures_of(session_of("worldkv"), 8))


async def test_modes_agree_until_the_window_is_full() -> None:
    window, full = await pictures_of(session_of("window"), 5), await pictures_of(session_of("full"), 5)
    assert (window - full).abs().max() <= 1e-5


async def test_sink_and_recent_chunks_are_never_recalled() -> None:
    session = session_of("worldkv")
    for _ in range(9):
        step = await session.step(TURN)
        assert not {r.hit.key.index for r in step.recalled} & {0, step.index - 1}


async def test_a_session_keeps_only_what_its_window_holds() -> None:
    session = session_of("worldkv")
    await pictures_of(session, 9)
    whole = session.model.spec.raw_bytes
    assert session.raw_bytes == 2 * whole  # the sink and the most recent chunk


async def test_a_step_takes_one_action_or_one_a_frame() -> None:
    with pytest.raises(InvalidInput, match="got 2"):
        await session_of("window").step([TURN, TURN])


async def test_shown_pictures_are_kept_as_they_are_and_the_walk_goes_on_from_them() -> None:
    session = session_of("worldkv")
    pictures = torch.rand(3, 3, TOY.height, TOY.width)
    walkers = [replace(START, yaw=float(i)) for i in range(3)]
    step = await session.show(pictures, walkers)
    assert torch.allclose(step.pictures, pictures, atol=1e-6)
    assert session.walker == walkers[-1]


async def test_pictures_that_are_not_finite_are_refused_and_nothing_is_kept() -> None:
    session = session_of("worldkv")
    with pytest.raises(InvalidInput, match="finite"):
        await session.show(torch.full((3, 3, TOY.height, TOY.width), float("nan")), [START] * 3)
    assert session.next == 0
    assert len(session.memory.finder.index) == 0


async def test_a_lost_chunk_is_made_again_from_its_latents_at_most_one_a_step() -> None:
    session = session_of("worldkv", hot_bytes=0)
    await pictures_of(session, 8)
    memory = session.memory
    await memory.store.delete([PartKey(session.lineage.key(i), "kv") for i in range(8)])
    memory._hot.clear()
    step = await session.step(TURN)
    assert memory.stats.reencoded == 1
    assert len(step.recalled) == 1


async def made_again(context: str) -> float:
    """How far a chunk's keys, made again from its latents, are from the first ones, as a share of their size."""
    session = session_of("worldkv", hot_bytes=0, context=context)
    await pictures_of(session, 8)
    memory, keys = session.memory, [session.lineage.key(i) for i in range(8)]
    first = await memory._fetch(keys)
    await memory.store.delete([PartKey(key, "kv") for key in keys])
    memory._hot.clear()
    (again,) = (await session.step(TURN)).recalled
    was = first[again.hit.key].kv.keys
    return float((again.entry.kv.keys - was).norm() / was.norm())


async def test_encoded_alone_a_chunk_is_made_again_as_it_was() -> None:
    assert await made_again("alone") <= 1e-3  # latents are kept in half precision
    assert await made_again("window") > 3e-3


async def test_encoded_alone_a_chunk_is_the_same_whatever_was_there_before_it() -> None:
    pictures, walkers = torch.rand(3, 3, TOY.height, TOY.width), [START] * 3
    fresh, later = (session_of("worldkv", context="alone") for _ in range(2))
    await pictures_of(later, 3)
    entries = []
    for session in (fresh, later):
        step = await session.show(pictures, walkers)
        entries.append(session._raw[step.index].kv)
    assert torch.equal(entries[0].keys, entries[1].keys)
    assert torch.equal(entries[0].values, entries[1].values)


async def test_a_budget_demotes_to_latents_and_the_walk_goes_on() -> None:
    session = session_of("worldkv", budget_bytes=5 * toy_model().spec.raw_bytes)
    await pictures_of(session, 12)
    memory = session.memory
    assert memory.kv_bytes <= memory.config.budget_bytes
    assert memory.stats.demoted >= 7
    parts = await memory.store.get([PartKey(session.lineage.key(i), "part") for i in range(12)])
    assert all(not hasattr(frame, "name") for frame in parts.values())  # the immutable parts are all there


def test_a_context_is_one_of_two() -> None:
    with pytest.raises(InvalidConfig, match="context"):
        SessionConfig(context="nowhere")


def test_mode_worldkv_needs_a_memory() -> None:
    model = toy_model()
    with pytest.raises(InvalidConfig, match="worldkv"):
        Session(model, SessionConfig(mode="worldkv"), START)
    session = Session(model, SessionConfig(mode="full"), START)
    with pytest.raises(InvalidConfig, match="worldkv"):
        session.configure(SessionConfig(mode="worldkv"), ())


@pytest.mark.parametrize("mode", ["window", "full"])
async def test_modes_without_recall_draw_the_same_with_a_memory_and_keep_what_is_drawn(mode: str) -> None:
    model, plain = toy_model(), session_of(mode)
    config = SessionConfig(mode=mode, seed=3)
    remembering = Session(model, config, START, memory_of(model, WindowConfig()))
    assert torch.equal(await pictures_of(remembering, 9), await pictures_of(plain, 9))
    assert len(remembering.memory.finder.index) == 9
    assert remembering.memory.stats.recalled == 0


async def test_a_session_goes_on_in_another_mode_with_the_chunks_that_it_is_given() -> None:
    session, full = session_of("worldkv"), session_of("full")
    for each in (session, full):
        await pictures_of(each, 7)
    session.configure(SessionConfig(mode="full"), full.held)
    drawn = await session.step(TURN)
    assert (drawn.mode, drawn.recalled, len(session.held)) == ("full", (), 8)
    assert torch.equal(drawn.pictures, (await full.step(TURN)).pictures), "the seed stays"
    sink = next(each for each in session.held if each.index == 0)
    session.configure(SessionConfig(mode="worldkv"), (sink, session.held[-1]))
    again = await session.step(TURN)
    assert (again.mode, len(again.recalled), len(session.held)) == ("worldkv", 2, 2)


async def test_a_session_is_not_configured_while_it_draws() -> None:
    session = session_of("worldkv")
    draft = await session.begin(TURN)
    with pytest.raises(Conflict):
        session.configure(SessionConfig(mode="window"), ())
    session.abandon(draft)
    session.configure(SessionConfig(mode="window"), ())
    assert (await session.step(TURN)).mode == "window"
