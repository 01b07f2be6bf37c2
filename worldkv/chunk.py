"""The nouns of a remembered world: model spec, branch, lineage, chunk and its two parts.

A chunk is immutable once published. Its *immutable part* (meta, conditioning, clean latents) is small and
kept for ever; its *KV part* is large, and may be dropped and made again from the latents.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from worldkv.errors import InvalidInput, NonFinite, SpecMismatch
from worldkv.pose import Matrix, check

BRANCH_BYTES = 16
"""Length of a branch id."""
MAX_CONDITIONING = 1 << 20
"""Bytes of conditioning and latents together, at most, that a session keeps before its frames go out."""

Buffer = bytes | bytearray | memoryview | NDArray[np.uint8]


@dataclass(frozen=True)
class ModelSpec:
    """What makes KV interchangeable: two chunks fit the same window only if their specs are equal.

    model, weights, vae  name and digests (hex)
    layers, heads, head_dim  of the transformer
    dtype                of keys and values when not coded: float32, float16 or bfloat16
    frame_tokens         tokens of one latent frame
    latent               shape of one latent frame, (channels, height, width)
    frames               latent frames of a chunk
    rope                 channel pairs of the time, height and width axes
    theta                base of RoPE's frequencies
    kv_sets              1, or 2 under classifier-free guidance
    view_range           how far, in world units, a view is taken to reach
    camera_in_keys       "none", or "world" where keys depend on the pose in the world's frame
    """

    model: str
    weights: str
    vae: str
    layers: int
    heads: int
    head_dim: int
    dtype: Literal["float32", "float16", "bfloat16"]
    frame_tokens: int
    latent: tuple[int, int, int]
    frames: int
    rope: tuple[int, int, int]
    theta: float
    kv_sets: int
    view_range: float
    camera_in_keys: Literal["none", "world"]

    def __post_init__(self) -> None:
        for name in ("heads", "head_dim", "frame_tokens", "frames", "kv_sets"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"a model spec's {name} must be at least 1, got {getattr(self, name)}")
        if self.layers < 0:
            raise InvalidInput(f"a model spec's layers must not be negative, got {self.layers}")
        if self.layers and sum(self.rope) * 2 > self.head_dim:
            raise InvalidInput(f"rope pairs {self.rope} need more channels than head_dim {self.head_dim}")
        if not 0 < self.view_range < float("inf"):
            raise InvalidInput(f"view_range must be a positive number of units, got {self.view_range}")

    @property
    def digest(self) -> str:
        """Digest of all fields, 32 hex digits: stands in every chunk."""
        fields = asdict(self)
        packed = msgpack.packb(sorted((k, list(v) if isinstance(v, tuple) else v) for k, v in fields.items()))
        return hashlib.blake2b(packed, digest_size=16).hexdigest()

    def require(self, digest: str) -> None:
        """Raise SpecMismatch unless `digest` is this spec's."""
        if digest != self.digest:
            raise SpecMismatch(f"chunk of spec {digest} met model {self.model} of spec {self.digest}")

    @property
    def raw_bytes(self) -> int:
        """Bytes of one chunk's keys and values, uncoded."""
        width = 4 if self.dtype == "float32" else 2
        tokens = self.frames * self.frame_tokens
        return 2 * self.kv_sets * self.layers * tokens * self.heads * self.head_dim * width


Branch = bytes
"""A random id of `BRANCH_BYTES` bytes, never reused, written by one session."""


def new_branch() -> Branch:
    return secrets.token_bytes(BRANCH_BYTES)


class ChunkKey(NamedTuple):
    """Name of a chunk: the branch that wrote it and its number in the lineage, from 0."""

    branch: Branch
    index: int

    def __str__(self) -> str:
        return f"{self.branch.hex()}/{self.index}"


@dataclass(frozen=True)
class Lineage:
    """Which branch a world's chunks are read from: [(branch, end), ...], oldest first.

    A part covers the indices from the end of the part before it up to its own `end` (exclusive); the last
    part, the branch that is being written, has `end` None. Forking, rewinding, opening a world to walk on
    and failing over are all `fork`: a new branch at chunk n.
    """

    parts: tuple[tuple[Branch, int | None], ...]

    def __post_init__(self) -> None:
        if not self.parts or self.parts[-1][1] is not None:
            raise InvalidInput("a lineage ends with the open branch that is being written")
        ends = [end for _, end in self.parts[:-1]]
        if any(e is None or e <= b for b, e in zip([0, *ends], ends, strict=False) if b is not None):
            raise InvalidInput(f"the ends of a lineage's branches must rise from 1, got {ends}")
        for branch, _ in self.parts:
            if len(branch) != BRANCH_BYTES:
                raise InvalidInput(f"a branch id has {BRANCH_BYTES} bytes, got {len(branch)}")

    @classmethod
    def begin(cls, branch: Branch | None = None) -> Lineage:
        return cls(((branch or new_branch(), None),))

    @property
    def head(self) -> Branch:
        """The branch that is being written."""
        return self.parts[-1][0]

    @property
    def root(self) -> Branch:
        """The first branch: places a world and all its forks."""
        return self.parts[0][0]

    @property
    def start(self) -> int:
        """First index written on the head branch."""
        return 0 if len(self.parts) == 1 else int(self.parts[-2][1] or 0)

    def fork(self, at: int, branch: Branch | None = None) -> Lineage:
        """The lineage of a new branch whose first own chunk is number `at`; chunks before it are shared."""
        if at < 0:
            raise InvalidInput(f"a world is forked at a chunk number from 0, got {at}")
        kept: list[tuple[Branch, int | None]] = []
        begin = 0
        for name, end in self.parts:
            if begin >= at:
                break
            kept.append((name, at if end is None else min(end, at)))
            begin = kept[-1][1] or 0
        return Lineage((*kept, (branch or new_branch(), None)))

    def key(self, index: int) -> ChunkKey:
        """Key of chunk number `index`, under the branch that wrote it."""
        if index < 0:
            raise InvalidInput(f"chunk numbers begin at 0, got {index}")
        for branch, end in self.parts:
            if end is None or index < end:
                return ChunkKey(branch, index)
        raise AssertionError("a lineage ends with an open branch")

    def keys(self, length: int) -> Iterator[ChunkKey]:
        """Keys of chunks 0 to `length` - 1."""
        return (self.key(i) for i in range(length))

    def covers(self, key: ChunkKey) -> bool:
        """Whether a chunk is part of this world."""
        return key.index >= 0 and self.key(key.index) == key


@dataclass(frozen=True, eq=False)
class Meta:
    """What the index needs to know of a chunk.

    key       its name
    spec      digest of the model spec that made it
    begin     time of its first latent frame since the world began, in latent frames
    poses     [frames, 4, 4] float64, camera-to-world of each latent frame
    fov       horizontal field of view, radians
    aspect    height of the picture over its width
    recalled  keys of the chunks that were in the window when it was made
    shown     True if its pictures came from outside (a tour), not from the model
    descriptor  optional [n] float32 for selectors that compare content
    depth     optional [frames, h, w] float32: small depth maps along the viewing axis, units
    """

    key: ChunkKey
    spec: str
    begin: int
    poses: Matrix
    fov: float
    aspect: float
    recalled: tuple[ChunkKey, ...] = ()
    shown: bool = False
    descriptor: NDArray[np.float32] | None = None
    depth: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        poses = check(np.array(self.poses, np.float64))
        if poses.ndim != 3 or not len(poses):
            raise InvalidInput(f"a chunk has poses [frames, 4, 4] of at least one frame, got {poses.shape}")
        poses.setflags(write=False)
        object.__setattr__(self, "poses", poses)
        if not 0 < self.fov < np.pi:
            raise InvalidInput(f"a field of view lies between 0 and pi radians, got {self.fov}")
        if not 0 < self.aspect < float("inf"):
            raise InvalidInput(f"an aspect (height over width) is positive, got {self.aspect}")
        if self.begin < 0 or self.key.index < 0:
            raise InvalidInput(f"chunk {self.key} begins at a frame and a number from 0, got {self.begin}")
        if self.depth is not None and (self.depth.ndim != 3 or len(self.depth) != len(poses)):
            raise InvalidInput(f"depth has shape [{len(poses)}, height, width], got {self.depth.shape}")

    @property
    def end(self) -> int:
        """Time just after its last latent frame."""
        return self.begin + len(self.poses)


@dataclass(frozen=True, eq=False)
class Part:
    """The immutable part of a chunk: small, never dropped, enough to make the KV again.

    latents       [frames, channels, height, width] float16: the clean latents
    conditioning  opaque bytes of the adapter (motion, actions, prompt digest)
    """

    meta: Meta
    latents: NDArray[np.float16]
    conditioning: bytes = b""

    def __post_init__(self) -> None:
        if self.latents.dtype != np.float16 or self.latents.ndim != 4:
            raise InvalidInput(
                f"latents are float16 [frames, channels, height, width], got {self.latents.dtype} {self.latents.shape}"
            )
        if len(self.latents) != len(self.meta.poses):
            raise InvalidInput(f"{len(self.latents)} latent frames but {len(self.meta.poses)} poses")
        if not np.isfinite(self.latents).all():
            raise NonFinite(f"latents of chunk {self.meta.key} hold values that are not finite")

    @property
    def nbytes(self) -> int:
        return self.latents.nbytes + len(self.conditioning)


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys or values of one layer (and group of heads), coded.

    kind        "k" or "v"
    layer       from 0
    head_group  from 0: which rank's heads, 0 where heads are not split
    dtype       of the decoded tensor
    shape       of the decoded tensor, (tokens, heads, head_dim)
    codec       name of the codec of `data`
    data        the coded bytes
    """

    kind: Literal["k", "v"]
    layer: int
    head_group: int
    dtype: str
    shape: tuple[int, int, int]
    codec: str
    data: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class KVPart:
    """The KV part of a chunk: keys in chunk-local time, and values.

    segments   all layers' keys and values; none for a model without KV
    reencoded  True if made again from the latents: close to the first KV, not equal to it
    """

    segments: tuple[Segment, ...]
    reencoded: bool = False

    @property
    def nbytes(self) -> int:
        """Coded bytes, without the header."""
        return sum(s.data.nbytes for s in self.segments)

    def as_reencoded(self) -> KVPart:
        return replace(self, reencoded=True)


@dataclass(frozen=True, eq=False)
class Chunk:
    """A chunk as it travels: the immutable part, and the KV part where there is one."""

    part: Part
    kv: KVPart | None = None

    @property
    def meta(self) -> Meta:
        return self.part.meta

    @property
    def key(self) -> ChunkKey:
        return self.part.meta.key
