"""Looking after stores and worlds from the command line: `worldkv store ...` and `worldkv world ...`.

What needs libraries is imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldkv.admin_options import Authority, Certificate, Deadline, Key, Tenant, Token
from worldkv.admin_rows import AsJson, Row, counted, show
from worldkv.errors import InvalidInput, WorldKVError

if TYPE_CHECKING:
    from worldkv.catalog import World
    from worldkv.client import KVClient
    from worldkv.store import PartKey
    from worldkv.worlds import Moved, Swept, Verdict

HERE = ("127.0.0.1:7070",)
"""Where the store is if nobody says."""

store = typer.Typer(help="What the shards of a store hold.", no_args_is_help=True)
world = typer.Typer(help="The worlds of a tenant.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a world.")]
File = Annotated[Path, typer.Argument(help="The file of a world.")]
At = Annotated[int | None, typer.Option(help="Chunk number; without it: just after the last chunk.")]
NoKV = Annotated[bool, typer.Option("--no-kv", help="Leave keys and values out; they can be made again.")]


@dataclass(frozen=True)
class Service:
    """Where the store is, and as whom it is asked."""

    shards: tuple[str, ...]
    members: Path | None
    tenant: str
    authority: Path | None
    certificate: Path | None
    key: Path | None
    token: str
    deadline_seconds: float

    def connect(self) -> KVClient:
        from worldkv.auth import Bearer
        from worldkv.client import ClientConfig, KVClient, MembershipFile, fixed
        from worldkv.rpc import TLS

        tls = TLS(self.certificate, self.key, self.authority)
        config = ClientConfig(
            tenant=self.tenant, deadline_seconds=self.deadline_seconds, tls=tls, bearer=Bearer(self.token)
        )
        if self.members and not self.shards:
            return KVClient(MembershipFile(self.members), config)
        return KVClient(fixed(*(self.shards or HERE)), config)


@store.callback()
@world.callback()
def service(
    context: typer.Context,
    shard: Annotated[
        list[str] | None, typer.Option(envvar="WORLDKV_SHARDS", help="host:port or name=host:port; several times.")
    ] = None,
    members: Annotated[
        Path | None, typer.Option(envvar="WORLDKV_MEMBERS", help="File that names the shards, if no --shard does.")
    ] = None,
    tenant: Tenant = "default",
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
    deadline: Deadline = 30.0,
) -> None:
    context.obj = Service(tuple(shard or ()), members, tenant, authority, certificate, key, token, deadline)


@store.command()
def stat(context: typer.Context, as_json: AsJson = False) -> None:
    """What each shard says of itself."""

    async def ask(client: KVClient) -> list[Row]:
        told = await client.stats()
        return [
            {
                "shard": name,
                "answers": each is not None,
                "level": each.level.name.lower() if each else None,
                "used_bytes": each.used_bytes if each else None,
                "budget_bytes": each.budget_bytes if each else None,
                "parts": each.parts if each else None,
                "waiting": each.waiting if each else None,
                "membership": each.membership if each else None,
                "shared_memory": each.shared if each else None,
            }
            for name, each in told.items()
        ]

    rows = _run(context, ask)
    show(rows, as_json)
    silent = [row["shard"] for row in rows if not row["answers"]]
    if silent:
        raise WorldKVError(f"shards that do not answer: {', '.join(silent)}")


@store.command()
def scan(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="Name of a world, or id of a branch with --branch.")],
    branch: Annotated[bool, typer.Option("--branch", help="Take it as a branch: 32 hex digits.")] = False,
    begin: Annotated[int, typer.Option(min=0, help="First chunk number.")] = 0,
    end: Annotated[int | None, typer.Option(min=0, help="Chunk number to stop before.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only part, or only kv.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what is held of a world or a branch."""
    from worldkv.worlds import runs

    if kind not in (None, "part", "kv"):
        raise InvalidInput(f"--kind is part or kv, got {kind!r}")

    async def ask(client: KVClient) -> list[Row]:
        if branch:
            where = [(_branch(what), begin, end)]
        else:
            where = runs((await client.worlds.read(what)).world.lineage, begin, end)
        return [
            {"branch": key.chunk.branch.hex(), "index": key.chunk.index, "kind": key.kind}
            for run in where
            async for key in client.scan(*run, "part" if kind == "part" else "kv" if kind == "kv" else None)
        ]

    show(_run(context, ask), as_json)


@store.command()
def verify(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Worlds; without any: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every checksum of some worlds, or of all; chunks that several share are read with the first."""
    from worldkv import worlds

    verdicts: dict[str, Verdict] = {}
    shared: dict[str, int] = {}

    async def ask(client: KVClient) -> None:
        seen: set[Any] = set()
        async for each in _worlds(client, names):
            before = len(seen)
            with counted(client, f"reading {each.name}") as store:
                verdicts[each.name] = await worlds.verify(store, each, seen)
            shared[each.name] = verdicts[each.name].chunks - (len(seen) - before)

    _run(context, ask)
    rows = [
        {
            "world": name,
            "chunks": each.chunks,
            "read_before": shared[name],
            "parts": each.parts,
            "kv": each.kv,
            "read_bytes": each.nbytes,
            "without_kv": sum(each.without.values()),
            "bad": len(each.bad),
        }
        for name, each in verdicts.items()
    ]
    bad = {key: why for each in verdicts.values() for key, why in each.bad.items()}
    if as_json:
        rows = [{**row, "bad": {str(k): why for k, why in verdicts[str(row["world"])].bad.items()}} for row in rows]
    show(rows, as_json)
    if bad:
        first = next(iter(bad))
        raise WorldKVError(f"{len(bad)} parts are gone or damaged; the first is {first}: {bad[first]}")


@store.command()
def rm(
    context: typer.Context,
    chunks: Annotated[list[str], typer.Argument(help="Chunks, each branch/number as `scan` tells them.")],
    kv: Annotated[bool, typer.Option("--kv", help="Only keys and values, to make room.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop chunks for good, or only their keys and values."""
    keys = [_key(text, kv) for text in chunks]

    async def ask(client: KVClient) -> list[Row]:
        return [{"dropped": await client.delete(keys)}]

    show(_run(context, ask), as_json)


@world.command()
def ls(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="How names begin.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Records of our own, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List worlds; chunks are those known when a record was written."""
    from worldkv.worlds import HIDDEN

    async def ask(client: KVClient) -> list[Row]:
        return [
            _about(each) async for each in client.worlds.list(prefix) if everything or not each.name.startswith(HIDDEN)
        ]

    show(_run(context, ask), as_json)


@world.command()
def fork(
    context: typer.Context,
    name: Name,
    into: Annotated[str, typer.Argument(help="Name of the new world.")],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Make a world that shares another one's chunks up to a number; copies nothing."""
    from worldkv import worlds

    async def ask(client: KVClient) -> list[Row]:
        return [_about((await worlds.fork(client, client.worlds, name, at, into)).world)]

    show(_run(context, ask), as_json)


@world.command()
def rewind(
    context: typer.Context,
    name: Name,
    at: Annotated[int, typer.Argument(help="Chunk number at which the world goes on.")],
    as_json: AsJson = False,
) -> None:
    """Let a world go on at an earlier chunk; what came after it goes with the next sweep."""
    from worldkv import worlds

    async def ask(client: KVClient) -> list[Row]:
        return [_about((await worlds.fork(client, client.worlds, name, at)).world)]

    show(_run(context, ask), as_json)


@world.command("export")
def export(
    context: typer.Context, name: Name, file: File, at: At = None, no_kv: NoKV = False, as_json: AsJson = False
) -> None:
    """Write a world to a file."""
    from worldkv import worlds

    async def ask(client: KVClient) -> list[Row]:
        with counted(client, f"exporting {name}") as store:
            return [_moved(await worlds.export_world(store, client.worlds, name, file, at, not no_kv))]

    show(_run(context, ask), as_json)


@world.command("import")
def import_(
    context: typer.Context,
    file: File,
    name: Annotated[str | None, typer.Argument(help="Its new name; without it: the one it had.")] = None,
    no_kv: NoKV = False,
    as_json: AsJson = False,
) -> None:
    """Make a world from a file."""
    from worldkv import worlds

    async def ask(client: KVClient) -> list[Row]:
        with counted(client, f"importing {file.name}") as store:
            return [_moved(await worlds.import_world(store, client.worlds, file, name, not no_kv))]

    show(_run(context, ask), as_json)


@world.command("rm")
def remove(
    context: typer.Context,
    name: Name,
    expected: Annotated[int, typer.Option(min=0, help="Only if the record has this version.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Forget a world and drop the chunks that no other world has."""
    from worldkv import worlds

    async def ask(client: KVClient) -> list[Row]:
        return [_swept(await worlds.remove(client, client.worlds, name, expected))]

    show(_run(context, ask), as_json)


@world.command()
def sweep(context: typer.Context, as_json: AsJson = False) -> None:
    """Drop what no world has: after rewinds, late writers and removals that were cut short."""
    from worldkv import worlds

    async def ask(client: KVClient) -> list[Row]:
        return [_swept(await worlds.sweep(client, client.worlds))]

    show(_run(context, ask), as_json)


def _run(context: typer.Context, ask: Callable[[KVClient], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        async with context.obj.connect() as client:
            return await ask(client)

    return asyncio.run(connected())


async def _worlds(client: KVClient, names: list[str] | None) -> AsyncIterator[World]:
    from worldkv.worlds import HIDDEN

    for name in names or ():
        yield (await client.worlds.read(name)).world
    if not names:
        async for each in client.worlds.list():
            if not each.name.startswith(HIDDEN):
                yield each


def _about(each: World) -> Row:
    return {
        "world": each.name,
        "chunks": each.chunks,
        "version": each.version,
        "branches": len(each.lineage.parts),
        "head": each.lineage.head.hex(),
        "spec": each.spec,
    }


def _moved(each: Moved) -> Row:
    return {
        "world": each.world.name,
        "chunks": each.world.chunks,
        "parts": each.parts,
        "kv": each.kv,
        "moved_bytes": each.nbytes,
        "left_out": dict(each.left_out),
    }


def _swept(each: Swept) -> Row:
    return {"chunks": each.chunks, "frames": each.frames}


def _branch(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InvalidInput(f"a branch is 32 hex digits, got {text[:80]!r}") from error


def _key(text: str, kv: bool) -> PartKey:
    from worldkv.chunk import ChunkKey, check_key
    from worldkv.store import PartKey

    branch, _, index = text.partition("/")
    if not index.isdecimal():
        raise InvalidInput(f"a chunk is branch/number, got {text[:80]!r}")
    return PartKey(check_key(ChunkKey(_branch(branch), int(index))), "kv" if kv else "part")
