"""`worldkv walk` against a toy service, as a user runs it."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.wire.toy_sessions import FRAMES, HEIGHT, WIDTH, ToySessions, serving
from worldkv import admin_walk, cli
from worldkv.actions import Action
from worldkv.auth import Authority
from worldkv.client import WalkClient
from worldkv.client.walks import ADDRESS
from worldkv.errors import NotFound
from worldkv.recorded import read_walk
from worldkv.rpc import TLS
from worldkv.walking import walk_all, watch_one

ROOT = Path(__file__).parents[2]


async def command(*words: str, **ways: Any) -> tuple[int, str, str, ToySessions]:
    """`worldkv walk` in a process of its own: exit code, what it printed, and the service it spoke with."""
    toy = ToySessions(**ways)
    async with serving(toy) as address:
        program = [sys.executable, "-c", "from worldkv.cli import main; main()", "walk", "--address", address, *words]
        process = await asyncio.create_subprocess_exec(
            *program, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode(), toy


async def test_sessions_walk_side_by_side_and_are_told_of():
    code, out, err, toy = await command("--path", "R90", "--sessions", "3", "--tour", "R27", "--seed", "5", "--json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert sorted(row["world"] for row in rows) == ["world-0", "world-1", "world-2"]
    for row in rows:
        assert (row["chunks"], row["remembered"], row["level"]) == (4, 5, "two")
        assert (row["recalled"], row["hit"], row["late"], row["missed"]) == (4, 0.5, 1, 1)
        assert row["fps"] > 0
        assert 0 < row["chunk_p50_ms"] <= row["chunk_p95_ms"]
        assert row["first_frame_s"] > 0
    assert toy.sittings == {}


async def test_a_picture_is_read_from_its_file(tmp_path):
    (tmp_path / "boats.png").write_bytes(b"boats")
    code, _, err, toy = await command("--path", "R9", "--scene", "a harbour", "--picture", str(tmp_path / "boats.png"))
    assert code == 0, err
    assert [(each.scene, each.picture) for each in toy.asked] == [("a harbour", b"boats")]


async def test_somebody_else_is_watched():
    toy = ToySessions()
    async with serving(toy) as address, WalkClient(address) as client, client.open(world="rooms", tour="R27") as walk:
        watching = asyncio.create_task(watch_one(client, walk.opened.watch, None, shown=False))
        await walk.move([Action()] * FRAMES)
        while not (made := toy.sittings[walk.session]).watchers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await walk.move([Action()] * FRAMES)
        made.watchers[0].put_nowait(NotFound("it was closed"))
        tally = await watching
    assert (tally.world, tally.chunks, tally.remembered.end, tally.failed) == ("rooms", walk.next, walk.next, None)


async def test_who_is_not_there_cannot_be_watched():
    code, out, err, _ = await command("--watch", "w" + "0" * 32)
    assert (code, out) == (2, ""), err
    assert "nothing is watched" in err


async def test_a_table_and_bars_are_for_people(tmp_path):
    code, out, err, _ = await command("--path", "R90", "--world", "my rooms", "--out", str(tmp_path))
    assert code == 0
    assert [*out.split()][:3] == ["world", "chunks", "fps"]
    assert "my rooms" in out
    assert "kept up to 4 at two" in err
    assert [path.name for path in tmp_path.iterdir()] == ["my-rooms.mp4"]


async def test_without_films_there_are_pictures(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "services.generator.report.video", raising=False)
    async with serving(ToySessions()) as address, WalkClient(address) as client:
        (tally,) = await walk_all(client, "R27", [{"world": "mine", "tour": "R27"}], 1, tmp_path, shown=False)
    assert tally.failed is None
    files = sorted((tmp_path / "mine").iterdir())
    assert [file.name for file in files] == [f"{n:06}.png" for n in range(6)]
    with Image.open(files[-1]) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((WIDTH, HEIGHT), (1, 1, 1))


async def test_a_walk_is_recorded_with_its_tour(tmp_path):
    opening = {"world": "mine", "scene": "rooms:3", "seed": 2, "tour": "R27"}
    async with serving(ToySessions()) as address, WalkClient(address) as client:
        (tally,) = await walk_all(client, "R27_R27", [opening], 1, None, tmp_path / "walk.json", shown=False)
        assert tally.failed is None
    walk = read_walk(tmp_path / "walk.json")
    assert (walk.scene, walk.seed, walk.shown, len(walk.walkers)) == ("rooms:3", 2, FRAMES, 4 * FRAMES)


async def test_a_world_that_was_begun_before_cannot_be_recorded(tmp_path):
    async with serving(ToySessions()) as address, WalkClient(address) as client:
        opening = {"world": "old", "at": 2}
        (tally,) = await walk_all(client, "R9", [opening], 1, None, tmp_path / "walk.json", shown=False)
    assert str(tally.failed).endswith("nobody recorded how world old began")
    assert not list(tmp_path.iterdir())


async def test_one_walk_that_fails_stops_no_other():
    code, out, err, _ = await command("--path", "R90", "--sessions", "2", "--json", room=1)
    assert code == cli.FAILED
    (row,) = map(json.loads, out.splitlines())
    assert row["chunks"] == 4
    assert err == "worldkv: 1 sessions walk already\n"


def run(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """Exit code and complaint, in this process."""
    monkeypatch.setattr(sys, "argv", ["worldkv", "walk", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--path", "X"], "expected one of R L W"),
        (["--path", ""], "nothing to walk"),
        (["--world", "mine", "--sessions", "2"], "one world"),
        (["--mode", "best"], "mode is one of"),
        (["--picture", "nowhere.png"], "nowhere.png"),
    ],
)
def test_what_makes_no_sense_is_code_2(monkeypatch, capsys, words, complaint):
    code, said = run(monkeypatch, capsys, "--address", "127.0.0.1:1", *words)
    assert code == cli.BAD_INPUT
    assert complaint in said


def test_nobody_there_is_said_with_a_remedy(monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "--address", "127.0.0.1:1")
    assert code == cli.FAILED
    assert said.splitlines()[-1].startswith("worldkv: nothing answers on 127.0.0.1:1, `worldkv up` starts the service")


def test_the_service_that_is_up_is_found(monkeypatch, tmp_path):
    from services.cluster.rundir import RunDir, Up

    monkeypatch.setenv("WORLDKV_RUN_DIR", str(tmp_path))
    assert admin_walk.served("acme") == (ADDRESS, None, "")
    folder = RunDir(tmp_path)
    folder.make()
    up = Up(fleet="127.0.0.1:1", ray="local", gateway=("127.0.0.1:2", "127.0.0.1:4"))
    folder.write(up)
    assert admin_walk.served("acme") == ("127.0.0.1:2", TLS(), "")
    (tmp_path / "secrets").write_text("s" * 32)
    folder.write(replace(up, client={"authority": "/ca.pem", "name": "worldkv", "secret": str(tmp_path / "secrets")}))
    _, tls, token = admin_walk.served("acme")
    assert tls == TLS(authority=Path("/ca.pem"), name="worldkv")
    claims = Authority(tmp_path / "secrets").read(token)
    assert (claims.tenant, claims.role) == ("acme", "tenant")
