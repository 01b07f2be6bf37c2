"""The commands that bring the service up and down, where there is none; and what they show."""

import os
import subprocess
import sys
from subprocess import Popen

import pytest
from rich.console import Console

from services.cluster.fleet import KIND as SERVED_KINDS
from services.cluster.fleet import STATE as SERVED_STATES
from services.cluster.fleet import TROUBLE as SERVED_TROUBLE
from services.cluster.rundir import RunDir, Up
from tests.unit.test_cli import run
from worldkv import cli
from worldkv.admin_fleet_view import KIND, STATE, TROUBLE, summary, welcome
from worldkv.v1 import fleet_pb2 as pb

KILLED = Up("127.0.0.1:1", "127.0.0.1:2", pid=4_000_000, shared=("worldkv-nothing-like-it",))


@pytest.fixture
def run_dir(tmp_path, monkeypatch) -> RunDir:
    monkeypatch.setenv("WORLDKV_RUN_DIR", str(tmp_path / "run"))
    return RunDir(tmp_path / "run")


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["down"], ["scale", "kvstore=2"]])
def test_where_nothing_is_up_this_is_said(run_dir, monkeypatch, capsys, words):
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, out) == (cli.FAILED, "")
    assert err.startswith(f"worldkv: WorldKV is not up in {run_dir.path}")
    assert not run_dir.path.exists()


def test_what_a_killed_service_left_is_removed_by_down(run_dir, monkeypatch, capsys):
    run_dir.make()
    run_dir.write(KILLED)
    code, _, err = run(monkeypatch, capsys, "status")
    assert code == cli.FAILED
    assert "was killed (process 4000000): `worldkv down` removes what it left" in err
    code, out, _ = run(monkeypatch, capsys, "down")
    assert (code, out) == (0, "WorldKV had been killed (process 4000000); what it left is removed\n")
    assert run_dir.read() is None


@pytest.mark.timeout(60)
def test_a_service_that_is_ended_before_it_is_ready_is_not_waited_for(run_dir, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: Popen([sys.executable, "-c", ""]))
    code, _, err = run(monkeypatch, capsys, "up", "--detach")
    assert code == cli.FAILED
    assert "WorldKV was ended before it was ready" in err


def test_down_says_what_to_do_where_the_cluster_is_gone(run_dir, monkeypatch, capsys):
    run_dir.make()
    run_dir.write(Up("127.0.0.1:1", "10.0.0.1:6379"))
    code, _, err = run(monkeypatch, capsys, "down")
    assert code == cli.FAILED
    assert f"if the Ray cluster at 10.0.0.1:6379 is gone, remove {run_dir.up_file}" in err


@pytest.mark.parametrize("up", [KILLED, Up("127.0.0.1:1", "10.0.0.1:6379")])
def test_a_second_service_in_one_place_is_refused(run_dir, monkeypatch, capsys, up):
    run_dir.make()
    run_dir.write(up)
    lock = run_dir.lock() if up.pid else None
    try:
        code, out, err = run(monkeypatch, capsys, "up")
    finally:
        if lock is not None:
            os.close(lock)
    assert (code, out) == (cli.FAILED, "")
    assert f"WorldKV is up already in {run_dir.path}: `worldkv status` shows it, `worldkv down` ends it" in err


@pytest.mark.parametrize("word", ["kvstore", "kvstore=", "kvstore=-1", "shard=1", "=1", "kvstore=x"])
def test_what_is_to_be_scaled_is_a_kind_and_a_count(run_dir, monkeypatch, capsys, word):
    code, _, err = run(monkeypatch, capsys, "scale", word)
    assert code == cli.BAD_INPUT
    assert "expected KIND=COUNT, with one of kvstore, retriever, generator, gateway" in err


def test_both_ends_speak_of_the_same_kinds_and_states():
    assert {number: kind for kind, number in SERVED_KINDS.items()} == KIND
    assert {number: state for state, number in SERVED_STATES.items()} == STATE
    assert SERVED_TROUBLE == TROUBLE


def shown(what) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def part(name: str, kind: pb.PartKind, **more) -> pb.FleetPart:
    return pb.FleetPart(name=name, kind=kind, **{"state": pb.PART_STATE_READY, "address": "127.0.0.1:1", **more})


FLEET = pb.FleetStatusResponse(
    ray="127.0.0.1:6379",
    membership=7,
    parts=[
        part("kvstore-1", pb.PART_KIND_KVSTORE, figures={"parts": "12", "used": "1.0 MB"}),
        part("kvstore-2", pb.PART_KIND_KVSTORE, restarts=3),
        part("gateway-1", pb.PART_KIND_GATEWAY, address="127.0.0.1:8470", web="127.0.0.1:8471"),
    ],
)


def test_a_first_user_is_told_where_it_is_and_what_to_do_next(tmp_path):
    text = shown(welcome(FLEET, RunDir(tmp_path), detached=False))
    assert text.startswith("WorldKV is up: 2 shards of the store, 1 gateway.\n")
    for words in ("127.0.0.1:8470", "http://127.0.0.1:8471", "worldkv walk --path R90_L90", "Ctrl-C", "memory alone"):
        assert words in text
    kept = pb.FleetStatusResponse(parts=FLEET.parts, redis="redis://10.0.0.2")
    text = shown(welcome(kept, RunDir(tmp_path), detached=True))
    assert "Redis at redis://10.0.0.2" in text
    assert "memory alone" not in text
    assert "Ctrl-C" not in text


def test_status_shows_restarts_figures_and_troubles():
    broken = part(
        "kvstore-3", pb.PART_KIND_KVSTORE, state=pb.PART_STATE_STARTING, address="", figures={TROUBLE: "no room"}
    )
    told = pb.FleetStatusResponse(parts=[*FLEET.parts, broken], ray=FLEET.ray, membership=7)
    lines = [line.split() for line in shown(summary(told)).splitlines()]
    assert ["kvstore-1", "ready", "127.0.0.1:1", "-", "-", "parts", "12,", "used", "1.0", "MB"] in lines
    assert ["kvstore-2", "ready", "127.0.0.1:1", "-", "3", "x"] in lines
    assert ["kvstore-3", "starting", "-", "-", "-", "no", "room"] in lines
    assert ["Membership", "7,", "Ray", "at", "127.0.0.1:6379."] in lines
