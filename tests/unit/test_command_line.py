"""The command line as one tool: what is documented, the same words for the same thing, codes, completion."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import typer

from tests.command_docs import BEGIN, FILE, listed
from tests.unit.test_cli import run
from worldkv import admin_rows, cli
from worldkv.admin_config import SETTINGS
from worldkv.admin_health import health
from worldkv.errors import NotFound, Unavailable
from worldkv.service import ServiceConfig, serve
from worldkv.store import RamStore

EVERYTHING = {
    *("up", "status", "scale", "down", "walk", "demo", "eval", "bench", "plan", "token", "health", "version"),
    *("world", "store", "retriever", "config", "model"),
}
SHARED = {"authority", "certificate", "key", "deadline", "as_json"}
"""Options that are in the same words everywhere."""
ABOUT_DIFFERENT_THINGS = {
    "address",
    "at",
    "config",
    "members",
    "model",
    "name",
    "out",
    "seed",
    "session",
    "token",
    "world",
    "walk",
}
"""Options whose help differs from one command to the next, for what they are of does."""


def commands(command: Any = None, path: str = "worldkv") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(cli.app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


def options() -> Iterator[tuple[str, Any]]:
    for path, command in commands():
        yield from ((path, each) for each in command.params if each.name not in ("help", "show_completion"))


def test_the_document_lists_what_there_is():
    told = FILE.read_text().partition(BEGIN)[2].strip()
    assert told == listed().strip(), "docs/cli.md is of an older command line: python -m tests.command_docs"


def test_all_of_it_is_one_command():
    assert {path.partition(" ")[2] for path, _ in commands() if path.count(" ") == 1} == EVERYTHING


def test_everything_says_what_it_is_for():
    for path, command in commands():
        assert (command.help or "").strip().endswith("."), path
    for path, each in options():
        assert re.search(r"[.)]$", (each.help or "").strip()), (path, each.name)


def test_the_same_option_is_the_same_thing_everywhere():
    known: dict[str, tuple[Any, ...]] = {}
    for path, each in options():
        if each.name in ABOUT_DIFFERENT_THINGS or each.param_type_name == "argument":
            continue
        shared = each.help if each.name in SHARED else None
        about = (tuple(each.opts), getattr(each, "envvar", None), shared)
        assert known.setdefault(each.name, about) == about, (path, each.name)


def test_help_tells_the_exit_codes(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--help")
    assert code == 0
    assert " ".join(cli.CODES.split()) in re.sub(r"[\s│]+", " ", out)


def test_ctrl_c_is_code_130(monkeypatch, capsys):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worldkv.plan.plan", interrupted)
    code, out, err = run(monkeypatch, capsys, "plan")
    assert (code, out, err.strip()) == (130, "", "")


@pytest.mark.slow
def test_the_shell_completes_commands_and_values():
    def completed(*words: str) -> list[str]:
        asked = {"_WORLDKV_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        command = [sys.executable, "-c", "from worldkv.cli import app; app(prog_name='worldkv')"]
        done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert completed("worldkv", "ret") == ["retriever"]
    found = ["lingbot-14b", "lingbot-14b-act", "lingbot-v2-1.3b", "lingbot-v2-14b"]
    assert completed("worldkv", "plan", "--model", "ling") == found
    assert completed("worldkv", "bench", "rope.b") == ["rope.bf16"]


def test_the_list_of_benchmarks_is_for_programs_too(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "bench", "--list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert all(set(row) == {"id", "bar", "about"} for row in rows)
    assert "rope.bf16" in {row["id"] for row in rows}


# config show


@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_is_shown_with_its_default(monkeypatch, capsys, service):
    code, out, _ = run(monkeypatch, capsys, "config", "show", service, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {row["from"] for row in rows} == {"default"}
    assert len(rows) > 12


def test_settings_say_where_they_come_from(monkeypatch, capsys, tmp_path):
    file = tmp_path / "shard.toml"
    file.write_text('shard = "a"\n[ram]\nbudget_bytes = 1024\ntenant_bytes = 7\n')
    monkeypatch.setenv("WORLDKV_KVSTORE_RAM__TENANT_BYTES", "9")
    monkeypatch.setenv("WORLDKV_KVSTORE_REDIS__URL", "redis://me:hunter2@10.0.0.9")
    code, out, _ = run(monkeypatch, capsys, "config", "show", "kvstore", "--config", str(file), "--changed", "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"setting": "shard", "value": "a", "from": str(file)},
        {"setting": "ram.budget_bytes", "value": 1024, "from": str(file)},
        {"setting": "ram.tenant_bytes", "value": 9, "from": "WORLDKV_KVSTORE_RAM__TENANT_BYTES"},
        {"setting": "redis.url", "value": "...", "from": "WORLDKV_KVSTORE_REDIS__URL"},
    ]
    assert "hunter2" not in run(monkeypatch, capsys, "config", "show", "kvstore")[1]


@pytest.mark.parametrize("service", SETTINGS)
def test_unknown_keys_are_refused_of_every_service(monkeypatch, capsys, tmp_path, service):
    file = tmp_path / "odd.toml"
    file.write_text("[service]\nadress = 'here:1'\n" if service != "cluster" else "[doors]\nport = 1\n")
    code, out, err = run(monkeypatch, capsys, "config", "show", service, "--config", str(file))
    assert (code, out) == (2, "")
    assert "unknown setting" in err
    assert "known here" in err


# health


@asynccontextmanager
async def nothing(host):
    yield []


async def asked(address: str, capsys: Any) -> str:
    await asyncio.to_thread(health, address)
    return str(capsys.readouterr().out)


async def test_health_tells_whether_a_service_serves(capsys):
    async with serve(ServiceConfig(), nothing) as serving:
        assert await asked(serving.address, capsys) == "SERVING\n"
        with pytest.raises(NotFound):
            await asyncio.to_thread(health, serving.address, "worldkv.v1.NoSuchService")
    with pytest.raises(Unavailable):
        await asyncio.to_thread(health, serving.address, deadline=0.5)


# what is shown


def test_numbers_stand_to_the_right_and_sizes_are_for_people(capsys):
    admin_rows.show(
        [{"what": "a", "count": 5, "used_bytes": 2000}, {"what": "bb", "count": 100, "used_bytes": 1}], False
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["what", "count", "used"]
    assert (first.split(), second.split()) == (["a", "5", "2.0", "kB"], ["bb", "100", "1", "byte"])
    assert first.index("5") == second.index("100") + 2


async def test_work_is_shown_on_a_terminal_alone(monkeypatch, capsys):
    store = RamStore(1 << 20)
    with admin_rows.counted(store, "exporting") as same, admin_rows.working("measuring"):
        assert same is store
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with admin_rows.counted(store, "exporting hall") as counting:
        assert await counting.get([]) == {}
    assert "exporting hall: 0 parts" in capsys.readouterr().err
