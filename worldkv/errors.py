"""What can go wrong, by what the caller can do about it.

    WorldKVError
    ├── InvalidInput            a value was not what was asked for (also a ValueError)
    │   ├── InvalidPose         not rigid, not finite, wrong shape
    │   ├── InvalidConfig       unknown key, malformed or out of range
    │   ├── UnknownCodec        no codec of that name
    │   └── NonFinite           NaN or infinity in keys, values, latents
    ├── SpecMismatch            made by, or for, another model: never reshaped
    ├── NotFound                no such world, branch, chunk or session
    ├── AlreadyExists           a name or a chunk is taken
    ├── Conflict                somebody else was faster: read again, then try again
    │   └── Outdated            routed by an older membership than is known: wait for the newer one
    ├── Unauthenticated         nobody knows who asks: no token, or none that is good
    ├── Forbidden               it is known who asks, and that is not for them
    ├── OverBudget              no room, and nothing that may make room
    ├── Unavailable             a part of the service does not answer
    ├── DeadlineExceeded        it did not come in time
    ├── ChunkCorrupt            bytes are not what was written
    │   ├── BadMagic            not a chunk at all
    │   ├── UnknownVersion      written by a version this one cannot read
    │   ├── Truncated           ends before its declared size
    │   ├── Oversized           larger than declared, or than the named limit
    │   ├── BadHeader           a header that contradicts itself
    │   └── ChecksumMismatch    bytes of header, segment or padding changed
    └── WeightsError            a model's weights cannot be used
        ├── WeightsMissing      no file where they should be
        └── WeightsMismatch     other names or shapes than the model's

A miss (a key that is gone) is a value, not an error.
"""


class WorldKVError(Exception):
    """Base of every error this project raises on purpose."""


class InvalidInput(WorldKVError, ValueError):
    """A value was not what was asked for; the message names it and what was expected."""


class InvalidPose(InvalidInput):
    """A pose that is not a finite rigid motion."""


class InvalidConfig(InvalidInput):
    """A configuration key that is unknown, malformed or out of range."""


class UnknownCodec(InvalidInput):
    """No codec of that name."""


class NonFinite(InvalidInput):
    """NaN or infinity where numbers were expected."""


class SpecMismatch(WorldKVError):
    """A chunk of one model met another model."""


class NotFound(WorldKVError):
    """No such world, branch, chunk or session."""


class AlreadyExists(WorldKVError):
    """A name or a chunk is already taken by something else."""


class Conflict(WorldKVError):
    """The record changed since it was read, or the chunk has been deleted since."""


class Outdated(Conflict):
    """A write was routed by an older membership than a shard knows."""


class Unauthenticated(WorldKVError):
    """No token was shown, or one that has expired or is none of ours."""


class Forbidden(WorldKVError):
    """The token that was shown is not for this."""


class OverBudget(WorldKVError):
    """No room left within a byte budget."""


class Unavailable(WorldKVError):
    """A part of the service does not answer."""


class DeadlineExceeded(WorldKVError):
    """The answer did not come in time."""


class ChunkCorrupt(WorldKVError):
    """Bytes that are not what was written."""


class BadMagic(ChunkCorrupt):
    """The bytes do not begin as a chunk does."""


class UnknownVersion(ChunkCorrupt):
    """A format version this reader does not know."""


class Truncated(ChunkCorrupt):
    """The bytes end before their declared size."""


class Oversized(ChunkCorrupt):
    """More bytes than declared, or than a named limit allows."""


class BadHeader(ChunkCorrupt):
    """A header that contradicts itself or the bytes after it."""


class ChecksumMismatch(ChunkCorrupt):
    """Bytes of a header, a segment or the padding between are not those that were written."""


class WeightsError(WorldKVError):
    """A model's weights cannot be used."""


class WeightsMissing(WeightsError):
    """No weights file where one should be."""


class WeightsMismatch(WeightsError):
    """Weights whose names, shapes or types are not the model's."""
