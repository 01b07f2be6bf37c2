"""The Redis tier through other ways than a socket: a cluster, and encrypted connections."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from services.kvstore.redis_config import RedisConfig
from services.kvstore.redis_server import connect
from services.kvstore.redis_tier import RedisTier
from tests.redis_process import PATIENCE, RedisStore, redis_process, redis_store
from worldkv.chunk import ChunkKey
from worldkv.format import Frame, join
from worldkv.store import Miss, PartKey

pytestmark = pytest.mark.redis

BRANCH = b"b" * 16


def part(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "part")


def kv(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "kv")


@pytest.mark.slow
async def test_a_cluster_keeps_each_chunk_in_one_slot():
    async with redis_store(cluster=True, piece_bytes=3) as store:
        items = {key: Frame.of(str(key).encode()) for n in range(12) for key in (part(n), kv(n))}
        await store.put(items)
        assert {key: join(frame) for key, frame in (await store.get([*items])).items()} == {
            key: str(key).encode() for key in items
        }
        assert [key async for key in store.scan(BRANCH)] == [*items]
        assert await store.delete([part(1), kv(2)]) == 3
        assert await store.get([kv(1), kv(2)]) == {kv(1): Miss.DELETED, kv(2): Miss.EVICTED}
        assert await store.tier.sweep_orphans() == 0
        assert len([key async for key in store.scan(BRANCH)]) == 21


@asynccontextmanager
async def encrypted(folder: Path) -> AsyncIterator[RedisTier]:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with openssl, which is not here")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", *kind, *subject, "-keyout", key, "-out", certificate]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    port = 20_000 + os.getpid() % 20_000
    tls = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate]
    with ExitStack() as stack:
        try:
            stack.enter_context(redis_process("--tls-port", str(port), *tls, "--tls-auth-clients", "no"))
        except OSError:
            pytest.skip("this redis-server was built without TLS")
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}"
        async with connect(RedisConfig(url, timeout_seconds=PATIENCE)) as server:
            yield RedisTier(server)


async def test_bytes_travel_encrypted_too(tmp_path: Path):
    async with encrypted(tmp_path) as tier:
        store, data = RedisStore(tier), {kv(): os.urandom(3_000_000), part(): b""}
        await store.put({key: Frame.of(each) for key, each in data.items()})
        assert {key: join(frame) for key, frame in (await store.get([*data])).items()} == data
