"""How chunks of a model become bytes and come back, in worker threads, where the model's keys and values lie."""

from __future__ import annotations

import asyncio

from worldkv.chunk import ChunkKey, KVPart, ModelSpec
from worldkv.coding import KV, Coding, decode_kv, encode_kv
from worldkv.errors import ChunkCorrupt
from worldkv.memory.device import Device
from worldkv.window import Entry


class Coder:
    """Codes chunks for a store, and makes entries for the window from what is stored."""

    def __init__(self, spec: ModelSpec, coding: Coding, device: Device) -> None:
        self.spec, self.coding, self.device = spec, coding, device

    async def code(self, kv: KV, coding: Coding, first: bool) -> KVPart:
        """The KV part of a chunk that was drawn, and is there; arguments and errors as for `encode_kv`."""

        def encode() -> KVPart:
            with self.device.beside():
                return encode_kv(kv, coding, self.spec, first)

        return await asyncio.to_thread(encode)

    async def entry(self, key: ChunkKey, kv: KVPart) -> Entry:
        """A chunk by its KV part."""

        def decode() -> KV:
            with self.device.beside():
                return decode_kv(kv, self.spec, self.coding.fitted, self.device.at_hand)

        return self.place(key, kv.reencoded, await asyncio.to_thread(decode))

    def place(self, key: ChunkKey, reencoded: bool, kv: KV) -> Entry:
        """A chunk at the time when it was made."""
        return Entry((key, reencoded), key.index * self.spec.frames, self.spec.frames, self.device.lend(kv))

    def require(self, key: ChunkKey, found: ChunkKey, spec: str) -> None:
        """Raise SpecMismatch for a chunk of another model, ChunkCorrupt for another chunk than was asked for."""
        self.spec.require(spec)
        if found != key:
            raise ChunkCorrupt(f"asked for {key}, the store answered with {found}")
