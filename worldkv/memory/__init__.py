"""The memory of one world: recall what saw the coming view, remember what was drawn, stay within a budget.

The index says which chunks, the store holds their bytes, and what was used lately stays decoded in a hot set
bounded in bytes. The index is a hint and the store is the truth: a chunk that is indexed and gone is a miss, a
value. A miss may be made good from the chunk's latents, once a step and marked. Either may be another process: a step
waits for them no longer than it is told to and leaves out what is late, and what cannot be kept now is kept later.

    recall     what is at hand, waits to be kept, is under way already or is fetched now, in time
    ahead      fetches for where the camera is heading, beside the steps
    remember   immutable part, then index; keys and values coded and put behind the caller's back
"""

from worldkv.memory.config import MemoryConfig, Order
from worldkv.memory.device import Device
from worldkv.memory.gathering import RecallReport
from worldkv.memory.keeping import Ours
from worldkv.memory.memory import SPARES, Memory, Recalled, Reencode
from worldkv.memory.stats import Kept, MemoryStats

__all__ = [
    "SPARES",
    "Device",
    "Kept",
    "Memory",
    "MemoryConfig",
    "MemoryStats",
    "Order",
    "Ours",
    "RecallReport",
    "Recalled",
    "Reencode",
]
