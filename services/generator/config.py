"""What a generator can be told; `generator.toml` beside this file lists every key with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from services.generator.adapters.wan.settings import WanSettings
from services.generator.drawing import Context
from services.generator.engine import EngineConfig
from services.generator.modes import SessionConfig
from services.generator.settings import Choices, Settings
from services.generator.step import Mode
from services.generator.world_model import WorldModel
from worldkv.codec import CODECS
from worldkv.coding import Coding, stored_tokens
from worldkv.errors import InvalidConfig
from worldkv.memory import Device, MemoryConfig
from worldkv.prune import Pruning
from worldkv.rpc import TLS
from worldkv.select import SELECTORS, make_selector
from worldkv.service import ServiceConfig
from worldkv.window import WindowConfig

AtHand = Literal["device", "host"]
LEAST_BYTES = 64 << 20
"""What room that follows a chunk's size has at least: chunks of a small model are few bytes, and many."""
WAITING_CHUNKS = 3
"""That wait while the store takes the last one."""


def room(told: int | None, needed: int) -> int:
    """Bytes as they were told, else what is needed, and `LEAST_BYTES`."""
    return max(LEAST_BYTES, needed) if told is None else told


@dataclass(frozen=True)
class MemorySettings:
    """How worlds are remembered.

    codec        of keys and values; one that is fitted to the model goes before one that everybody has
    keep         share of tokens kept of every frame but a chunk's first
    selector     how chunks are chosen for recall
    context      what the clean pass attends to besides the chunk itself: the window, or nothing
    window       latent frames of each part of the window, and placement
    budget_bytes  coded bytes of keys and values a world may keep, 0 for no limit
    hot_bytes    decoded bytes a session keeps at hand; None: twice what is recalled, see `room`
    at_hand      where: on the model's device, or in this host's memory, whence a GPU takes them anew whenever their
                 place in the window changes
    queue_bytes  of keys and values of a session that may wait to be coded and put; None: three chunks, likewise
    recall_seconds  that a step waits for memory; what is late is left out
    keep_seconds  that pictures wait until their chunk is kept; None: half of a chunk's playing time
    most_unkept  chunks that may wait to be kept before the session pauses
    prefetch     fetch ahead of the camera
    """

    codec: str = "klt2"
    keep: float = 1.0
    selector: str = "coverage_early"
    context: Context = "alone"
    window: WindowConfig = field(default_factory=WindowConfig)
    budget_bytes: int = 0
    hot_bytes: int | None = None
    at_hand: AtHand = "device"
    queue_bytes: int | None = None
    recall_seconds: float = 0.25
    keep_seconds: float | None = None
    most_unkept: int = 8
    prefetch: bool = True

    def __post_init__(self) -> None:
        make_selector(self.selector)
        if not 0 <= self.recall_seconds < inf:
            raise InvalidConfig(f"memory.recall_seconds = {self.recall_seconds}: expected seconds from 0")

    def check(self, model: WorldModel) -> None:
        """Raises InvalidConfig unless the window's sink and recent parts are whole chunks of the model, and
        UnknownCodec for a codec that is neither the model's nor everybody's."""
        frames = model.spec.frames
        for name in ("sink", "recent"):
            count = getattr(self.window, name)
            if count % frames:
                raise InvalidConfig(
                    f"memory.window.{name} = {count}: expected a multiple of {frames}, the latent frames of a chunk of "
                    f"{model.spec.model}"
                )
        self.coding(model)

    def coding(self, model: WorldModel) -> Coding:
        """What is done to a chunk that is stored. Raises UnknownCodec for a codec that is neither the model's nor
        everybody's."""
        return self.coding_as(model, self.codec, self.keep)

    @staticmethod
    def coding_as(model: WorldModel, codec: str, keep: float) -> Coding:
        """The same for another codec and share; what the model's other codecs have stored can be read all the same."""
        fitted = {each.name: each for pair in model.codecs.values() for each in pair}
        keys, values = (each.name for each in model.codecs[codec]) if codec in model.codecs else (codec, codec)
        return Coding(keys, values, Pruning(keep), fitted=fitted)

    def choices(self, model: WorldModel) -> Choices:
        """What sessions may choose."""
        slots = self.window.recalled * model.spec.frame_tokens // stored_tokens(self.coding(model), model.spec)
        codecs = dict.fromkeys((self.codec, *model.codecs, *CODECS))
        return Choices(tuple(SELECTORS), tuple(codecs), slots, self.keep)

    def settings(self, model: WorldModel, mode: Mode = "worldkv") -> Settings:
        """How sessions remember that choose nothing but their mode."""
        return Settings(mode, self.selector, self.choices(model).slots, self.keep, self.codec)

    def device(self, model: WorldModel) -> Device:
        """Where a memory works, and what is at hand lies."""
        return Device(model.device, "cpu" if self.at_hand == "host" else None)

    def hot(self, model: WorldModel) -> int:
        """Decoded bytes that a session keeps at hand."""
        spec, slot = model.spec, stored_tokens(self.coding(model), model.spec)
        chunk = spec.raw_bytes * slot // (spec.frames * spec.frame_tokens)
        return room(self.hot_bytes, 2 * self.choices(model).slots * chunk)

    def of_session(self, model: WorldModel, settings: Settings, lockstep: bool, playing_seconds: float) -> MemoryConfig:
        """Of one session; in lockstep it waits for everything. `playing_seconds` of a chunk."""
        spec, slot = model.spec, stored_tokens(self.coding(model), model.spec)
        live: dict[str, float | int | bool | None] = {}
        if not lockstep:
            live = {
                "recall_seconds": self.recall_seconds,
                "keep_seconds": playing_seconds / 2 if self.keep_seconds is None else self.keep_seconds,
                "queue_bytes": room(self.queue_bytes, WAITING_CHUNKS * spec.raw_bytes),
                "prefetch": self.prefetch,
            }
        return MemoryConfig(
            coding=self.coding_as(model, settings.codec, settings.keep),
            slot_tokens=slot,
            recalled=settings.recalled,
            budget_bytes=self.budget_bytes,
            budget_chunks=settings.budget_chunks,
            hot_bytes=self.hot(model),
            most_unkept=self.most_unkept,
            **live,  # type: ignore[arg-type]  # each as MemorySettings has it
        )

    def walking(self, mode: Mode, seed: int) -> SessionConfig:
        """How a session walks; the baselines attend to their window in the clean pass too."""
        context: Context = self.context if mode == "worldkv" else "window"
        return SessionConfig(mode=mode, window=self.window, seed=seed, context=context)


@dataclass(frozen=True)
class LiveConfig:
    """How sessions are served.

    pictures_per_second  at which a world is meant to be played
    jpeg_quality   1 to 95
    idle_seconds   after which a session that nobody walks in is suspended
    forget_seconds  after which a suspended session that nobody is joined to is not listed here any more; it stays
                   resumable
    settle_seconds  that a session which is suspended or ended waits for its chunks to be kept
    most           sessions that may be open, suspended ones too
    moves          that may wait in a session
    resend_bytes   of a session's newest pictures that are kept for whoever lost his connection, while it is awake
    behind_bytes   of pictures that may wait for a slow client; beyond that the oldest are dropped, never the newest
    behind         messages that may wait for a client before a held action draws no more
    watchers       that may watch a session at once
    watch_behind   messages that may wait for a watcher before its connection ends
    looking_share  of a generator's time that goes into pictures made again for whoever looks back, at most, while
                   chunks are drawn; above 0 to 1

    Raises InvalidConfig naming the value that is out of range.
    """

    pictures_per_second: float = 10.0
    jpeg_quality: int = 92
    idle_seconds: float = 30.0
    forget_seconds: float = 3600.0
    settle_seconds: float = 20.0
    most: int = 4096
    moves: int = 64
    resend_bytes: int = 256 << 10
    behind_bytes: int = 4 << 20
    behind: int = 64
    watchers: int = 16
    watch_behind: int = 256
    looking_share: float = 0.05

    def __post_init__(self) -> None:
        for name in ("pictures_per_second", "idle_seconds", "forget_seconds", "settle_seconds"):
            if not 0 < getattr(self, name) < inf:
                raise InvalidConfig(f"live.{name} = {getattr(self, name)}: expected a number above 0")
        for name in ("most", "moves", "behind", "watch_behind"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"live.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("resend_bytes", "behind_bytes", "watchers"):
            if getattr(self, name) < 0:
                raise InvalidConfig(f"live.{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.looking_share <= 1:
            raise InvalidConfig(f"live.looking_share lies above 0 and up to 1, got {self.looking_share}")
        if not 1 <= self.jpeg_quality <= 95:
            raise InvalidConfig(f"live.jpeg_quality lies between 1 and 95, got {self.jpeg_quality}")


@dataclass(frozen=True)
class StoreConfig:
    """Where chunks are kept: the store's shards, or a file that names them.

    shards            each `name=host:port`, or `host:port` alone
    members           file of the membership, see `worldkv.client.MembershipFile`
    deadline_seconds  of one call
    stall_seconds     after which a shard that gives no sign of life counts as not answering
    landing_bytes     of memory kept warm for what is fetched, a tenant; None: two chunks as they
                      are coded, see `room`
    staging_bytes     of memory shared with shards of this host for what is put, a tenant; None: a coded
                      chunk and `LEAST_BYTES`
    tls               transport security
    token             shown to it, or a file that holds one; empty: own ones, signed with `service.auth.secret`

    Raises InvalidConfig unless exactly one of shards and members is given.
    """

    shards: tuple[str, ...] = ()
    members: Path | None = None
    deadline_seconds: float = 10.0
    stall_seconds: float = 2.0
    landing_bytes: int | None = None
    staging_bytes: int | None = None
    tls: TLS = field(default_factory=TLS)
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _one_of("store", "shards", self.shards, self.members)
        for name in ("deadline_seconds", "stall_seconds"):
            if not 0 < getattr(self, name) < inf:
                raise InvalidConfig(f"store.{name} = {getattr(self, name)}: expected seconds above 0")


@dataclass(frozen=True)
class IndexConfig:
    """Where chunks are found: the retriever's replicas, or a file that names them.

    replicas          each `name=host:port`, or `host:port` alone
    members           file of the membership
    deadline_seconds  of one call, where the session does not wait in lockstep
    patient_seconds   of one call, where it does
    failover_seconds  for which a replica has to have been silent before the next in rank is asked
    tls               transport security
    token             shown to it, or a file that holds one; empty: own ones, signed with `service.auth.secret`

    Raises InvalidConfig unless exactly one of replicas and members is given.
    """

    replicas: tuple[str, ...] = ()
    members: Path | None = None
    deadline_seconds: float = 1.0
    patient_seconds: float = 30.0
    failover_seconds: float = 3.0
    tls: TLS = field(default_factory=TLS)
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _one_of("index", "replicas", self.replicas, self.members)
        for name in ("deadline_seconds", "patient_seconds"):
            if not 0 < getattr(self, name) < inf:
                raise InvalidConfig(f"index.{name} = {getattr(self, name)}: expected seconds above 0")


@dataclass(frozen=True)
class InsideConfig:
    """What is kept in this process' memory where there is no store, a tenant.

    store_bytes     of chunks
    snapshot_bytes  of session states
    """

    store_bytes: int = 1 << 30
    snapshot_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("store_bytes", "snapshot_bytes"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"inside.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class GeneratorConfig:
    """A generator's settings.

    name     its name in the membership; empty: its address
    service  as every service has them
    model    which one
    weights  its file or folder; None: those that come along
    threads  that one pass of the model computes in; 0: as many as there are cores
    wan      how it is run, if it is a published model of the Wan family
    engine   how many sessions are drawn for, and how
    memory   how worlds are remembered
    live     how sessions are served
    store    where chunks are kept, and
    index    where they are found. Without both: in this process' memory, and gone with it
    inside   how much of that there may be
    """

    name: str = ""
    service: ServiceConfig = field(default_factory=lambda: ServiceConfig(address="127.0.0.1:7090"))
    model: str = "pocket"
    weights: Path | None = None
    threads: int = 0
    wan: WanSettings = field(default_factory=WanSettings)
    engine: EngineConfig = field(default_factory=EngineConfig)
    memory: MemorySettings = field(default_factory=MemorySettings)
    live: LiveConfig = field(default_factory=LiveConfig)
    store: StoreConfig | None = None
    index: IndexConfig | None = None
    inside: InsideConfig = field(default_factory=InsideConfig)

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise InvalidConfig(f"threads must not be negative, got {self.threads}")
        if (self.store is None) != (self.index is None):
            raise InvalidConfig(f"store ({self.store}) and index ({self.index}) go together")


def _one_of(table: str, name: str, listed: tuple[str, ...], members: Path | None) -> None:
    if bool(listed) == (members is not None):
        raise InvalidConfig(f"{table}.{name} ({', '.join(listed)}) or {table}.members ({members}): one of both")
