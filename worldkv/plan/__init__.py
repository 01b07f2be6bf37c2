"""What a service takes: memory, network and accelerators, as plain sums. No torch, no service is asked.

| name | what |
| --- | --- |
| `Shape`, `SHAPES`, `shape` | the models as numbers, and how to find one |
| `raw_bytes`, `stored_bytes`, `part_bytes` ... | the formulas, one function each |
| `Workload`, `Figure`, `plan` | what is to be served, and all that it takes |

`docs/operations.md` has the same formulas in words; a test compares its example with `plan`.
"""

from worldkv.plan.formulas import (
    chunk_count,
    fetched_rate,
    index_bytes,
    kept_rate,
    part_bytes,
    raw_bytes,
    recalled_chunks,
    session_gpu_bytes,
    stored_bytes,
    world_kv_bytes,
)
from worldkv.plan.shapes import SHAPES, Shape, shape
from worldkv.plan.sums import Figure, Workload, plan

__all__ = [
    "SHAPES",
    "Figure",
    "Shape",
    "Workload",
    "chunk_count",
    "fetched_rate",
    "index_bytes",
    "kept_rate",
    "part_bytes",
    "plan",
    "raw_bytes",
    "recalled_chunks",
    "session_gpu_bytes",
    "shape",
    "stored_bytes",
    "world_kv_bytes",
]
