"""Memory that processes of one host share: a shard's arena seen by its readers, and a writer's staging segment.

Both are files under /dev/shm. A shard alone writes its arena; a reader maps it read-only, copies what a plan says
and looks at the plan's generations after each run of bytes: a part that made room meanwhile is a miss, never wrong
data, and there is no lease that could leak. A writer alone writes its staging segment; the shard maps that read-only
and copies out of it. Sixteen random bytes in each segment prove that both sides see the same memory.

The order of a generation and the bytes it guards is that of stores on x86; on other machines verify the checksum.
"""

from worldkv.shared.arena import ArenaInfo, ArenaReader
from worldkv.shared.copying import checksum, copy, copy_checked
from worldkv.shared.file import NONCE_BYTES, Extent, SharedFile, cut, live_on, remove_stale
from worldkv.shared.staging import Staged, Staging, StagingReader

__all__ = [
    "NONCE_BYTES",
    "ArenaInfo",
    "ArenaReader",
    "Extent",
    "SharedFile",
    "Staged",
    "Staging",
    "StagingReader",
    "checksum",
    "copy",
    "copy_checked",
    "cut",
    "live_on",
    "remove_stale",
]
