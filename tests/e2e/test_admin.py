"""The command line against two shards that are processes of their own."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from benchmarks.kv_scale import Shards
from tests.unit.test_world_files import SPEC, write
from worldkv import cli, worlds
from worldkv.chunk import ChunkKey
from worldkv.client import ClientConfig, KVClient, MembershipFile
from worldkv.format import Frame
from worldkv.store import PartKey

pytestmark = pytest.mark.slow

Call = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = Shards(tmp_path_factory.mktemp("shards"), 16 << 20)
    try:
        made.start("a", "b")
        made.become("ab")
        asyncio.run(made.ready())
        yield made.members
    finally:
        made.kill()


@pytest.fixture
def call(members: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request: Any) -> Call:
    """Runs a command as a tenant of this test alone: exit code, the rows it printed, and what it said on stderr."""
    tenant = f"test-{crc32(request.node.name.encode())}"
    monkeypatch.setenv("WORLDKV_MEMBERS", str(members))
    monkeypatch.setenv("WORLDKV_TENANT", tenant)

    def call(*words: str, as_json: bool = True) -> tuple[int, list[dict[str, Any]], str]:
        code, out, err = text(*words, *(["--json"] if as_json else []))
        return code, [json.loads(line) for line in out.splitlines()], err

    def text(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["worldkv", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    call.text = text  # type: ignore[attr-defined]
    call.tenant = tenant  # type: ignore[attr-defined]
    return call


@pytest.fixture
def harbour(call: Any, members: Path) -> None:
    """A world of eight chunks."""

    async def make() -> None:
        async with KVClient(MembershipFile(members), ClientConfig(tenant=call.tenant)) as client:
            made = (await worlds.begin(client.worlds, "harbour", SPEC)).world
            await write(client, made, 0, 8)

    asyncio.run(make())


def test_every_shard_is_listed(call: Call):
    code, rows, _ = call("store", "stat")
    assert code == 0
    assert {row["shard"]: (row["answers"], row["level"]) for row in rows} == {"a": (True, "one"), "b": (True, "one")}
    assert all(row["budget_bytes"] == 16 << 20 for row in rows)


def test_a_shard_that_does_not_answer_is_said_and_code_1(call: Any):
    code, out, err = call.text("store", "--shard", "127.0.0.1:9", "--deadline", "0.5", "stat")
    assert (code, "127.0.0.1:9" in out, "do not answer" in err) == (1, True, True)


def test_an_empty_store_says_so(call: Any):
    for words in ("world ls", "store verify"):
        assert call.text(*words.split()) == (0, "", "there are none\n")
        assert call(*words.split()) == (0, [], "")


@pytest.mark.usefixtures("harbour")
def test_chunks_that_worlds_share_are_read_once(call: Call):
    call("world", "fork", "harbour", "quay", "--at", "5")
    _, rows, _ = call("store", "verify")
    assert [(row["world"], row["chunks"], row["read_before"], row["parts"]) for row in rows] == [
        ("harbour", 8, 0, 8),
        ("quay", 5, 5, 0),
    ]


@pytest.mark.parametrize("words", ["world ls", "world rm harbour", "store scan harbour", f"store rm {'ab' * 16}/2"])
def test_a_dead_shard_is_named_with_what_to_do(call: Any, words: str):
    group, *rest = words.split()
    code, out, err = call.text(group, "--shard", "c=127.0.0.1:9", "--deadline", "5", *rest)
    assert (code, out, "Traceback" in err) == (1, "", False)
    assert "shard c does not answer: start it again, or take it out of the membership (" in err
    assert len(err) < 250


@pytest.mark.usefixtures("harbour")
def test_worlds_are_listed_forked_rewound_and_removed(call: Call):
    assert call("world", "fork", "harbour", "quay", "--at", "5")[1][0]["chunks"] == 5
    code, rows, _ = call("world", "ls")
    assert (code, [(row["world"], row["branches"], row["spec"]) for row in rows]) == (
        0,
        [("harbour", 1, SPEC), ("quay", 2, SPEC)],
    )
    assert [row["world"] for row in call("world", "ls", "q")[1]] == ["quay"]
    assert call("world", "rewind", "harbour", "6")[1][0]["version"] == 2
    assert call("world", "sweep")[1] == [{"chunks": 2, "frames": 4}]
    assert call("world", "rm", "harbour")[1] == [{"chunks": 1, "frames": 2}]
    assert call("world", "rm", "quay")[1] == [{"chunks": 5, "frames": 10}]
    assert call("world", "ls")[1] == []


@pytest.mark.usefixtures("harbour")
def test_a_world_goes_to_a_file_and_comes_back(call: Call, tmp_path: Path):
    code, rows, _ = call("world", "export", "harbour", str(tmp_path / "w.wkw"))
    assert (code, rows[0]["parts"], rows[0]["kv"], rows[0]["left_out"]) == (0, 8, 8, {})
    call("world", "rm", "harbour")
    assert call("world", "import", str(tmp_path / "w.wkw"), "quay", "--no-kv")[1][0]["kv"] == 0
    assert call("world", "import", str(tmp_path / "w.wkw"))[1][0]["kv"] == 8
    assert [row["world"] for row in call("world", "ls")[1]] == ["harbour", "quay"]
    code, rows, _ = call("store", "verify")
    assert (code, [(row["parts"], row["kv"], row["without_kv"], row["bad"]) for row in rows]) == (
        0,
        [(8, 8, 0, {}), (8, 0, 8, {})],
    )


@pytest.mark.usefixtures("harbour")
def test_keys_are_listed_and_removed(call: Call):
    _, rows, _ = call("store", "scan", "harbour", "--begin", "2", "--end", "4")
    assert [(row["index"], row["kind"]) for row in rows] == [(2, "part"), (2, "kv"), (3, "part"), (3, "kv")]
    branch = rows[0]["branch"]
    assert call("store", "rm", f"{branch}/2", f"{branch}/3", "--kv")[1] == [{"dropped": 2}]
    assert call("store", "rm", f"{branch}/3")[1] == [{"dropped": 1}]
    _, rows, _ = call("store", "scan", branch, "--branch", "--kind", "part")
    assert [row["index"] for row in rows] == [0, 1, 2, 4, 5, 6, 7]
    _, rows, _ = call("store", "scan", "harbour", "--end", "4", "--kind", "kv")
    assert [row["index"] for row in rows] == [0, 1]


@pytest.mark.usefixtures("harbour")
def test_verify_names_what_is_damaged(call: Any, members: Path):
    head = call("world", "ls")[1][0]["head"]

    async def spoil() -> None:
        async with KVClient(MembershipFile(members), ClientConfig(tenant=call.tenant)) as client:
            key = PartKey(ChunkKey(bytes.fromhex(head), 5), "kv")
            await client.delete([key])
            await client.put({key: Frame.of(b"no frame at all")})

    asyncio.run(spoil())
    code, rows, err = call("store", "verify", "harbour")
    assert (code, rows[0]["parts"], rows[0]["kv"]) == (1, 8, 7)
    assert list(rows[0]["bad"]) == [f"kv of {head}/5"]
    assert f"{head}/5" in err


@pytest.mark.usefixtures("harbour")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("world fork atlantis new", "atlantis"),
        ("world fork harbour new --at 9", "chunk 8"),
        ("world fork harbour harbour", "harbour"),
        ("world rm atlantis", "atlantis"),
        ("world import /no/such/file", "/no/such/file"),
        ("world export harbour /no/such/file", "/no/such/file"),
        ("store scan atlantis", "atlantis"),
        ("store scan xyz --branch", "xyz"),
        ("store scan harbour --kind both", "both"),
        ("store rm harbour", "harbour"),
        ("store rm ab/1", "16 bytes"),
        ("store --shard nowhere stat", "nowhere"),
    ],
)
def test_bad_input_is_named(call: Any, words: str, said: str):
    code, out, err = call.text(*words.split())
    assert code in (cli.BAD_INPUT, cli.FAILED)
    assert (out, said in err, "Traceback" in err) == ("", True, False)


@pytest.mark.usefixtures("harbour")
def test_tables_are_for_people(call: Any):
    code, out, _ = call.text("world", "ls")
    assert code == 0
    assert out.splitlines()[0].split() == ["world", "chunks", "version", "branches", "head", "spec"]
    assert "harbour" in out
    assert "used" in call.text("store", "stat")[1]
