"""What can be done with whole worlds: begin, fork, rewind, remove, export, import, verify.

Plain functions over a `Store` and a `Catalog`. A world is a record of a few hundred bytes that points into branches
which it may share with others; nothing here copies a chunk but export and import.
"""

from worldkv.worlds.checks import Verdict, verify
from worldkv.worlds.lineages import HIDDEN, Swept, begin, fork, length, remove, runs, shared, sweep
from worldkv.worlds.moving import Moved, export_pieces, export_world, import_world

__all__ = [
    "HIDDEN",
    "Moved",
    "Swept",
    "Verdict",
    "begin",
    "export_pieces",
    "export_world",
    "fork",
    "import_world",
    "length",
    "remove",
    "runs",
    "shared",
    "sweep",
    "verify",
]
