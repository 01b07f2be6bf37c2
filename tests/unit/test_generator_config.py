import asyncio
import re
import tomllib
from contextlib import aclosing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.generator import tier
from services.generator.adapters.paced.adapter import PacedWorldModel
from services.generator.adapters.paced.shapes import SHAPES
from services.generator.config import LEAST_BYTES, GeneratorConfig, IndexConfig, MemorySettings, StoreConfig
from services.generator.live.metrics import Metrics
from services.generator.models import load_model
from services.generator.tier import Shards
from tests.example_files import complete
from tests.toys import toy_model
from worldkv.client import KVClient
from worldkv.coding import stored_tokens
from worldkv.config import load
from worldkv.errors import InvalidConfig, InvalidInput, UnknownCodec
from worldkv.window import WindowConfig
from worldkv.wire_sessions import MemoryChange

ROOT = Path(__file__).parents[2]


def test_the_example_names_every_setting_with_its_default():
    text = complete(ROOT / "services" / "generator" / "generator.toml", GeneratorConfig)
    shown = tomllib.loads(re.sub(r"^# (?=\[|\w+ = )", "", text[text.index("# [store]") :], flags=re.MULTILINE))
    for name, default in (("store", StoreConfig(shards=("a",))), ("index", IndexConfig(replicas=("a",)))):
        assert shown[name].keys() == {each.name for each in fields(default)}
        for key in shown[name].keys() - {"shards", "replicas", "members", "tls"}:
            told = getattr(default, key)
            assert shown[name][key] == (LEAST_BYTES if told is None else told), key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"STORE__SHARDS": "a:1"}, "go together"),
        ({"INDEX__REPLICAS": "a:1"}, "go together"),
        ({"STORE__SHARDS": "a:1", "STORE__MEMBERS": "x", "INDEX__REPLICAS": "a:1"}, "one of both"),
        ({"STORE__SHARDS": "a:1", "INDEX__DEADLINE_SECONDS": "1"}, "one of both"),
        ({"STORE__SHARDS": "a:1", "STORE__STALL_SECONDS": "0", "INDEX__REPLICAS": "a:1"}, "stall_seconds"),
        ({"INDEX__REPLICAS": "a:1", "INDEX__DEADLINE_SECONDS": "0", "STORE__SHARDS": "a:1"}, "deadline_seconds"),
        ({"THREADS": "-1"}, "threads"),
        ({"LIVE__IDLE_SECONDS": "0"}, "idle_seconds"),
        ({"LIVE__MOVES": "0"}, "moves"),
        ({"LIVE__RESEND_BYTES": "-1"}, "resend_bytes"),
        ({"LIVE__JPEG_QUALITY": "100"}, "jpeg_quality"),
        ({"MEMORY__RECALL_SECONDS": "-1"}, "recall_seconds"),
        ({"INSIDE__STORE_BYTES": "0"}, "store_bytes"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(InvalidConfig, match=words):
        load(GeneratorConfig, "X_", None, {f"X_{name}": value for name, value in settings.items()})


def test_selectors_codecs_and_models_that_nobody_knows_are_refused():
    with pytest.raises(InvalidInput, match="nobody"):
        MemorySettings(selector="nobody")
    with pytest.raises(UnknownCodec):
        MemorySettings(codec="nobody").coding(toy_model())
    with pytest.raises(InvalidConfig, match="there are"):
        load_model("nobody", None)


def test_a_window_is_made_of_whole_chunks():
    MemorySettings(codec="int8").check(toy_model())
    for name in ("sink", "recent"):
        with pytest.raises(InvalidConfig, match=rf"memory\.window\.{name} = 4: expected a multiple of 3"):
            MemorySettings(codec="int8", window=WindowConfig(**{name: 4})).check(toy_model())


def test_in_lockstep_a_session_waits_for_everything():
    settings = MemorySettings(codec="int8", keep_seconds=0.5)
    model = toy_model()
    waits, goes_on = (settings.of_session(model, settings.settings(model), lock, 0.3) for lock in (True, False))
    assert (waits.recall_seconds, waits.keep_seconds, waits.queue_bytes, waits.prefetch) == (None, None, 0, False)
    assert (goes_on.recall_seconds, goes_on.keep_seconds, goes_on.prefetch) == (0.25, 0.5, True)
    plain = MemorySettings(codec="int8")
    assert plain.of_session(model, plain.settings(model), False, 0.3).keep_seconds == pytest.approx(0.15)


def test_room_that_is_not_told_follows_the_size_of_chunks():
    model, window = PacedWorldModel(SHAPES["paced-mg2"], [].append), WindowConfig(recalled=18)
    size = model.spec.raw_bytes
    plain, told = MemorySettings("raw", window=window), MemorySettings("raw", hot_bytes=7, queue_bytes=8, window=window)
    config, as_told = (each.of_session(model, each.settings(model), False, 0.3) for each in (plain, told))
    assert (config.hot_bytes, config.queue_bytes) == (2 * 6 * size, 3 * size)
    assert (as_told.hot_bytes, as_told.queue_bytes) == (7, 8)
    assert plain.device(model).at_hand == replace(plain, at_hand="host").device(model).at_hand == model.device
    small = MemorySettings("int8").of_session(toy_model(), MemorySettings("int8").settings(toy_model()), False, 0.3)
    assert small.hot_bytes == small.queue_bytes == LEAST_BYTES


async def test_what_lands_and_is_staged_has_room_for_a_models_chunks():
    store, index, size = StoreConfig(shards=("a:1",)), IndexConfig(replicas=("a:1",)), 100 << 20
    for config, landing, staging in (
        (store, 2 * size, size + LEAST_BYTES),
        (replace(store, landing_bytes=7, staging_bytes=8), 7, 8),
    ):
        async with aclosing(Shards(config, index, chunk_bytes=size)) as tiers:
            client = tiers("somebody").store
            assert isinstance(client, KVClient)
            assert (client.config.landing_bytes, client.config.staging_bytes) == (landing, staging)


async def test_no_memory_is_kept_warm_for_tenants_that_do_not_walk(monkeypatch):
    monkeypatch.setattr(tier, "TICK_SECONDS", 0.01)
    async with aclosing(Shards(StoreConfig(shards=("a:1",)), IndexConfig(replicas=("a:1",)))) as tiers:
        clients: dict[str, Any] = {tenant: tiers(tenant).store for tenant in ("walks", "rests")}
        pools = {tenant: client.ring.landing for tenant, client in clients.items()}
        for pool in pools.values():
            pool.take(1 << 20)
        keeping = asyncio.create_task(tiers.keep_few(lambda: {"walks"}))
        async with asyncio.timeout(30):
            while pools["rests"].idle_bytes:  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(0.01)
        assert pools["walks"].idle_bytes
        keeping.cancel()


def test_what_sessions_choose_becomes_how_their_memory_works():
    model, plain = toy_model(), MemorySettings(codec="int8", keep=0.5, budget_bytes=7)
    choices = plain.choices(model)
    assert (choices.slots, choices.keep) == (3, 0.5)  # of 6 frames' tokens, each slot has room for 2
    settings = choices.check(plain.settings(model).changed(MemoryChange(None, "pose", 1, 0.25, "int4", 9)))
    config = plain.of_session(model, settings, True, 0.3)
    assert (config.recalled, config.budget_bytes, config.budget_chunks) == (1, 7, 9)
    assert (config.coding.keys, config.coding.pruning.keep) == ("int4", 0.25)
    assert (
        config.slot_tokens == stored_tokens(plain.coding(model), model.spec) > stored_tokens(config.coding, model.spec)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (MemoryChange(selector="nobody"), "no selector is named 'nobody'; there are pose"),
        (MemoryChange(codec="nobody"), "no codec is named 'nobody'; there are int8"),
        (MemoryChange(recalled=4), "recalled = 4: the window has 3 slots"),
        (MemoryChange(keep=0.75), "keep = 0.75: slots have room for 0.5"),
        (MemoryChange(budget_chunks=1), "budget_chunks = 1: expected 0"),
        (MemoryChange(mode="nobody"), "mode is one of worldkv, window, full"),
    ],
)
def test_a_memory_that_cannot_be_is_refused_by_name(change, words):
    model, plain = toy_model(), MemorySettings(codec="int8", keep=0.5)
    with pytest.raises(InvalidInput, match=words):
        plain.choices(model).check(plain.settings(model).changed(change))


def test_every_figure_of_a_generator_is_explained_and_there_is_no_other() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    page = generate_latest(registry).decode()
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^# TYPE (worldkv_generator_\w+) ", page, re.MULTILINE))
    explained = set(re.findall(r"`(worldkv_generator_\w+)`", text))
    assert {name for name in shown if not name.endswith("_created")} == explained
