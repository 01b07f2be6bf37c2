"""The nouns of a remembered world: model spec, branch, lineage, chunk and its two parts.

A chunk is immutable once published. Its *immutable part* (meta, conditioning, clean latents) is small and
kept for ever; its *KV part* is large, and may be dropped and made again from the latents.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Literal, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from worldkv.errors import InvalidInput, NonFinite, SpecMismatch
from worldkv.pose import Matrix, check

BRANCH_BYTES = 16
"""Length of a branch id."""
MAX_INDEX = (1 << 63) - 1
"""Largest chunk number, and largest time in latent frames."""
MAX_NAME = 64
"""Length of a codec's name, at most; printable ASCII."""
DIGEST_DIGITS = 32
"""Length of a spec digest, lower-case hex digits."""
_HEX = frozenset("0123456789abcdef")
DTYPES = ("float32", "float16", "bfloat16")
"""What keys and values may be made of."""

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
        for name in ("latent", "rope"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("theta", "view_range"):  # 10000 and 10000.0 are one spec
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("heads", "head_dim", "frame_tokens", "frames"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"a model spec's {name} must be at least 1, got {getattr(self, name)}")
        if self.layers < 0:
            raise InvalidInput(f"a model spec's layers must not be negative, got {self.layers}")
        if len(self.latent) != 3 or min(self.latent) < 1:
            raise InvalidInput(f"a spec's latent is (channels, height, width), each at least 1, got {self.latent}")
        if len(self.rope) != 3 or min(self.rope) < 0:
            raise InvalidInput(f"a spec's rope is (time, height, width), none negative, got {self.rope}")
        if self.layers and sum(self.rope) * 2 > self.head_dim:
            raise InvalidInput(f"rope pairs {self.rope} need more channels than head_dim {self.head_dim}")
        if not 0 < self.theta < inf:
            raise InvalidInput(f"theta must be a positive number, got {self.theta}")
        if not 0 < self.view_range < inf:
            raise InvalidInput(f"view_range must be a positive number of units, got {self.view_range}")
        if self.dtype not in DTYPES:
            raise InvalidInput(f"a model spec's dtype is one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.kv_sets not in (1, 2):
            raise InvalidInput(f"a model spec's kv_sets is 1, or 2 under guidance, got {self.kv_sets}")
        if self.camera_in_keys not in ("none", "world"):
            raise InvalidInput(f"camera_in_keys is none or world, got {self.camera_in_keys!r}")

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
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a key

    def __str__(self) -> str:
        return f"{self.branch.hex()}/{self.index}"


def check_key(key: ChunkKey) -> ChunkKey:
    """The key itself, or InvalidInput if its branch has not `BRANCH_BYTES` bytes or its number is out of range."""
    if not isinstance(key.branch, bytes) or len(key.branch) != BRANCH_BYTES:
        raise InvalidInput(f"a branch id has {BRANCH_BYTES} bytes, got {key.branch!r}")
    if not 0 <= key.index <= MAX_INDEX:
        raise InvalidInput(f"a chunk's number lies between 0 and {MAX_INDEX}, got {key.index}")
    return key


def check_digest(spec: str) -> str:
    """The spec digest itself, or InvalidInput if it is not `DIGEST_DIGITS` lower-case hex digits."""
    if len(spec) != DIGEST_DIGITS or not _HEX.issuperset(spec):
        raise InvalidInput(f"a spec digest has {DIGEST_DIGITS} lower-case hex digits, got {spec[:80]!r}")
    return spec


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
            check_key(ChunkKey(branch, 0))
        if len({branch for branch, _ in self.parts}) != len(self.parts):
            raise InvalidInput("a branch id is never reused, but a lineage names one twice")

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
    depth     optional [frames, h, w] float32: small depth maps along the viewing axis, units; inf: nothing there

    Raises InvalidInput (InvalidPose for poses) naming the value that is wrong.
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
        if not 0 < self.aspect < inf:
            raise InvalidInput(f"an aspect (height over width) is positive, got {self.aspect}")
        if not 0 <= self.begin <= MAX_INDEX:
            raise InvalidInput(f"chunk {self.key} begins at a latent frame from 0, got {self.begin}")
        check_digest(self.spec)
        for key in (self.key, *self.recalled):
            check_key(key)
        if (n := self.descriptor) is not None and (n.dtype != np.float32 or n.ndim != 1 or not np.isfinite(n).all()):
            raise InvalidInput(f"a descriptor is finite float32 [n], got {n.dtype} {n.shape}")
        if (d := self.depth) is not None and (d.dtype != np.float32 or d.ndim != 3 or len(d) != len(poses)):
            raise InvalidInput(f"depth is float32 [{len(poses)}, height, width], got {d.dtype} {d.shape}")
        if d is not None and not (d >= 0).all():
            raise InvalidInput("depth is a distance from 0 to infinity, got negative values or NaN")

    @property
    def end(self) -> int:
        """Time just after its last latent frame."""
        return self.begin + len(self.poses)


@dataclass(frozen=True, eq=False)
class Part:
    """The immutable part of a chunk: small, never dropped, enough to make the KV again.

    latents       [frames, channels, height, width] float16: the clean latents
    conditioning  opaque bytes of the adapter (motion, actions, prompt digest)

    Raises InvalidInput for other shapes or types, NonFinite for NaN or infinity.
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
        if not isinstance(self.conditioning, bytes):
            raise InvalidInput(f"conditioning is bytes, got {type(self.conditioning).__name__}")

    @property
    def nbytes(self) -> int:
        return self.latents.nbytes + len(self.conditioning)


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys or values of one layer (and group of heads), coded.

    kind        "k" or "v"
    layer       from 0; the layers of a second KV set follow those of the first
    head_group  from 0: which rank's heads, 0 where heads are not split
    dtype       of the decoded tensor, one of `DTYPES`
    shape       of the decoded tensor, (tokens, heads, head_dim)
    codec       name of the codec of `data`, 1 to `MAX_NAME` printable ASCII characters
    data        the coded bytes, [n] uint8, contiguous

    Raises InvalidInput naming the value that is wrong.
    """

    kind: Literal["k", "v"]
    layer: int
    head_group: int
    dtype: str
    shape: tuple[int, int, int]
    codec: str
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.kind not in ("k", "v"):
            raise InvalidInput(f"a segment holds k or v, got {self.kind!r}")
        if not (0 <= self.layer <= MAX_INDEX and 0 <= self.head_group <= MAX_INDEX):
            raise InvalidInput(f"a segment's layer and head group count from 0, got {self.layer}, {self.head_group}")
        if self.dtype not in DTYPES:
            raise InvalidInput(f"a segment's dtype is one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if len(self.shape) != 3 or min(self.shape) < 0:
            raise InvalidInput(f"a segment's shape is (tokens, heads, head_dim), got {self.shape}")
        if not (0 < len(self.codec) <= MAX_NAME and self.codec.isascii() and self.codec.isprintable()):
            raise InvalidInput(f"a codec's name is 1 to {MAX_NAME} printable ASCII characters, got {self.codec[:80]!r}")
        if self.data.dtype != np.uint8 or self.data.ndim != 1 or not self.data.flags.c_contiguous:
            raise InvalidInput(f"a segment's data is contiguous uint8 [n], got {self.data.dtype} {self.data.shape}")

    @property
    def label(self) -> tuple[str, int, int]:
        """What only one segment of a chunk may be: (kind, layer, head group)."""
        return self.kind, self.layer, self.head_group


@dataclass(frozen=True, eq=False)
class KVPart:
    """The KV part of a chunk: keys in chunk-local time, and values.

    segments   all layers' keys and values; none for a model without KV
    reencoded  True if made again from the latents: close to the first KV, not equal to it

    Raises InvalidInput if two segments are of the same kind, layer and head group.
    """

    segments: tuple[Segment, ...]
    reencoded: bool = False

    def __post_init__(self) -> None:
        seen: set[tuple[str, int, int]] = set()
        for segment in self.segments:
            if segment.label in seen:
                raise InvalidInput(f"a chunk holds {segment.kind} of layer {segment.layer} twice")
            seen.add(segment.label)

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
