"""`worldkv up` and all that follows, on a Ray of its own: what dies comes back, nothing acknowledged is lost, and in
the end nothing is left: no process, no shared memory, no file in the home directory."""

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.async_api import expect

from benchmarks import kv_scale
from benchmarks.browser import chromium, chromium_program
from benchmarks.kv_scale import frame
from services.cluster.rundir import RunDir, Up
from tests.browser.visitor import visiting
from worldkv.chunk import ChunkKey
from worldkv.client import ClientConfig, KVClient, MembershipFile
from worldkv.errors import NotFound
from worldkv.format import Frame, join
from worldkv.shared import remove_stale
from worldkv.store import PartKey
from worldkv.wire_sessions import watch_id

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(400)]

PATIENCE = 120.0
"""Seconds that something may take on a slow machine."""
WORLDKV = [sys.executable, "-c", "from worldkv.cli import main; main()"]
ALL = {"kvstore-1", "retriever-1", "generator-1", "gateway-1"}
CLIENT = ClientConfig(deadline_seconds=30, stall_seconds=10, landing_bytes=32 << 20, staging_bytes=32 << 20)


class Service(NamedTuple):
    """A run directory and a home directory of a test's own, and what is set there."""

    run_dir: RunDir
    home: Path
    prefix: str

    @property
    def environment(self) -> dict[str, str]:
        chosen = {
            "KVSTORE__RAM__BUDGET_BYTES": str(128 << 20),
            "KVSTORE__RAM__PREFIX": f"{self.prefix}-arena",
            "KVSTORE__SERVING__STAGING_PREFIX": f"{self.prefix}-staging",
            "DOOR__PORT": "0",
            "DOOR__WEB_PORT": "0",
            "GENERATOR__THREADS": "1",
        }
        keep = {name: text for name, text in os.environ.items() if not name.startswith(("WORLDKV_", "RAY_"))}
        own = {"HOME": str(self.home), "WORLDKV_RUN_DIR": str(self.run_dir.path)}
        return {**keep, **own, **{f"WORLDKV_CLUSTER_{name}": text for name, text in chosen.items()}}

    def command(self, *words: str, fails: bool = False) -> str:
        """What a command prints, on stderr if it is to fail."""
        done = subprocess.run([*WORLDKV, *words], env=self.environment, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, f"{words}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stderr if fails else done.stdout

    def parts(self) -> dict[str, dict[str, Any]]:
        return {row["part"]: row for row in map(json.loads, self.command("status", "--json").splitlines())}

    def ready(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """Wait until exactly these parts are there and ready."""
        return self.until(
            lambda parts: {n for n, row in parts.items() if row["state"] == "ready"} == set(parts) == names
        )

    def until(self, true) -> dict[str, dict[str, Any]]:
        end = time.monotonic() + PATIENCE
        while not true(parts := self.parts()):
            assert time.monotonic() < end, f"{parts}{self.logs()}"
            time.sleep(0.3)
        return parts

    def logs(self) -> str:
        """The end of every log."""
        return "".join(
            f"\n--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(self.run_dir.logs.glob("*.log"))
        )

    def pids(self) -> dict[str, int]:
        """Processes that write logs here, by the log's name."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                target = Path(os.readlink(process / "fd" / "1"))
            except OSError:
                continue
            if target.parent == self.run_dir.logs:
                found[target.stem] = int(process.name)
        return found

    def kill(self) -> None:
        """End what may still run; Ray's processes die with the one that keeps them."""
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while processes_about(str(self.run_dir.path)) and time.monotonic() < end:
            time.sleep(0.1)
        for prefix in ("arena", "staging"):
            remove_stale(f"{self.prefix}-{prefix}")

    def left(self) -> set[str]:
        """Shared memory that is still there."""
        return {path.name for path in Path("/dev/shm").glob(f"{self.prefix}*")}

    def check_gone(self) -> None:
        """Assert that nothing is left of it but its logs."""
        assert self.pids() == {}
        assert self.left() == set()
        assert list(self.home.rglob("*")) == []
        assert sorted(os.listdir(self.run_dir.path)) == ["lock", "logs"]
        assert processes_about(str(self.run_dir.path)) == []


def processes_about(text: str) -> list[str]:
    """Command lines that speak of something, but for our own."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words and int(process.name) != os.getpid():
            found.append(words)
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="wkv-") as folder:  # short: Ray makes sockets in it
        made = Service(RunDir(Path(folder) / "run"), Path(folder) / "home", f"worldkv-{secrets.token_hex(4)}")
        made.home.mkdir()
        try:
            yield made
        finally:
            made.kill()


@pytest.fixture(scope="module")
def service(place: Service) -> Service:
    said = place.command("up", "--detach")
    assert "WorldKV is up: 1 shard of the store, 1 replica of the index, 1 generator, 1 gateway." in said
    assert "worldkv walk --path R90_L90" in said
    assert "in memory alone" in said
    return place


def up(service: Service) -> Up:
    found = service.run_dir.read()
    assert found is not None
    return found


def test_everything_serves_where_it_is_told_to(service):
    parts = service.ready(ALL)
    assert all(row["address"] and row["metrics"] and row["figures"]["memory"] for row in parts.values())
    assert up(service).gateway == (parts["gateway-1"]["address"],)
    assert up(service).web == (parts["gateway-1"]["web"],)
    assert "kvstore-1" in service.command("status")
    assert "up already" in service.command("up", fails=True)
    assert "kvstore=0: expected 1 to 1000" in service.command("scale", "kvstore=0", fails=True)
    assert "expected KIND=COUNT" in service.command("scale", "shard=2", fails=True)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_process_is_named_like_its_part(service, name):
    title, end = Path(f"/proc/{service.pids()[name]}/cmdline"), time.monotonic() + PATIENCE
    while not (named := title.read_text().startswith(f"ray::{name}")) and time.monotonic() < end:
        time.sleep(0.1)  # while Ray asks it something, that is how it is named
    assert named


def test_somebody_walks(service):
    walked = service.command("walk", "--path", "R90", "--json")
    assert json.loads(walked.splitlines()[0])["chunks"] > 0


@pytest.mark.browser
async def test_whoever_runs_it_sees_all_of_it_on_the_page(service):
    try:
        chromium_program()
    except NotFound as error:
        pytest.skip(str(error))
    service.ready(ALL)
    (web,) = up(service).web
    async with chromium() as browser, visiting(browser, f"http://{web}", f"/#watch={watch_id('nobody')}") as visitor:
        fleet = visitor.page.locator("#fleet")
        await fleet.scroll_into_view_if_needed()
        await expect(fleet.locator(".fleet-summary")).to_have_text(re.compile("on 1 generator, 4 parts, all well"))
        parts = fleet.get_by_role("table", name="Parts").locator("tbody tr")
        assert {name.strip() for name in await parts.locator("th").all_inner_texts()} == ALL
        shard = parts.filter(has_text="kvstore-1")
        await shard.locator("summary").focus()
        await visitor.page.keyboard.press("Enter")
        async with visitor.page.expect_response(
            "**/v1/fleet"
        ):  # it is looked at again, and what was open and had the focus still does
            pass
        await expect(shard).to_contain_text("worldkv_kvstore_used_bytes")
        await expect(shard.locator("summary")).to_be_focused()
        await visitor.page.keyboard.press("Enter")
        await visitor.picture("fleet", ".place-fleet")


@pytest.mark.parametrize("name", ["kvstore-1", "generator-1"])
def test_a_part_that_is_killed_comes_back_under_its_name(service, name):
    before = service.ready(ALL)
    os.kill(service.pids()[name], signal.SIGKILL)
    after = service.until(lambda parts: parts[name]["restarts"] == 1 and parts[name]["state"] == "ready")
    assert after[name]["address"] != before[name]["address"]
    assert {each: row["address"] for each, row in after.items() if each != name} == {
        each: row["address"] for each, row in before.items() if each != name
    }


def test_no_chunk_that_was_acknowledged_is_lost_while_shards_come_and_go(service, monkeypatch):
    monkeypatch.setattr(kv_scale, "SIZES", {"part": 5_000, "kv": 80_000})  # a shard has room for all of it
    service.ready(ALL)
    lost, put = asyncio.run(put_while(service, ["scale", "kvstore=3"], ["scale", "kvstore=1"]))
    assert put > 10
    assert lost == []
    service.ready(ALL)


async def put_while(service: Service, *commands: list[str]) -> tuple[list[PartKey], int]:
    """Parts lost of those acknowledged while these commands ran, one after the other, and how many those are."""
    branch, done = secrets.token_bytes(16), asyncio.Event()
    kept: list[PartKey] = []
    members = MembershipFile(service.run_dir.path / "kvstore.toml")
    async with KVClient(members, CLIENT) as client:

        async def puts() -> None:
            for index in range(10_000):
                keys = [PartKey(ChunkKey(branch, index), kind) for kind in ("part", "kv")]
                kept.extend(await client.put({key: frame(key) for key in keys}))
                await asyncio.sleep(0.1)
                if done.is_set():
                    return

        putting = asyncio.create_task(puts())
        try:
            for words in commands:
                await asyncio.to_thread(service.command, *words)
        finally:
            done.set()
            await putting
        found: dict[PartKey, Any] = {}
        for begin in range(0, len(kept), 20):
            found |= await client.get(kept[begin : begin + 20])
    right = {key for key, each in found.items() if isinstance(each, Frame) and join(each) == join(frame(key))}
    return [key for key in kept if key not in right], len(kept)


def test_a_supervisor_that_is_killed_finds_what_runs_and_goes_on(service):
    before, where = service.ready(ALL), up(service).fleet
    os.kill(service.pids()["supervisor"], signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while (now := service.run_dir.read()) is None or now.fleet == where:
        assert time.monotonic() < end, service.logs()
        time.sleep(0.2)
    after = service.ready(ALL)
    assert {name: row["address"] for name, row in after.items()} == {
        name: row["address"] for name, row in before.items()
    }


def test_nothing_is_left_after_down(service):
    assert service.command("down").splitlines()[-1] == "WorldKV has ended"
    service.check_gone()
    assert "is not up" in service.command("status", fails=True)
    assert "is not up" in service.command("down", fails=True)


def test_a_service_in_the_foreground_ends_in_order_when_whoever_began_it_is_killed(place):
    command = [*WORLDKV, "up", "--generator", "0"]
    with subprocess.Popen(command, env=place.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("WorldKV is up: 1 shard")
            process.kill()
            process.wait()
            end = time.monotonic() + PATIENCE
            while place.run_dir.locked:
                assert time.monotonic() < end, place.logs()
                time.sleep(0.2)
        finally:
            process.kill()
    place.check_gone()
