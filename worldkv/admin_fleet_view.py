"""What the commands that bring the service up and down show to people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worldkv.admin_rows import Row
from worldkv.v1 import fleet_pb2 as pb

if TYPE_CHECKING:
    from services.cluster.rundir import RunDir

KIND = {
    pb.PART_KIND_KVSTORE: "kvstore",
    pb.PART_KIND_RETRIEVER: "retriever",
    pb.PART_KIND_GENERATOR: "generator",
    pb.PART_KIND_GATEWAY: "gateway",
}
STATE = {
    pb.PART_STATE_STARTING: "starting",
    pb.PART_STATE_READY: "ready",
    pb.PART_STATE_SILENT: "silent",
    pb.PART_STATE_LEAVING: "leaving",
    pb.PART_STATE_ELSEWHERE: "elsewhere",
}
SAID = {
    pb.PART_KIND_KVSTORE: ("shard of the store", "shards of the store"),
    pb.PART_KIND_RETRIEVER: ("replica of the index", "replicas of the index"),
    pb.PART_KIND_GENERATOR: ("generator", "generators"),
    pb.PART_KIND_GATEWAY: ("gateway", "gateways"),
}
"""One of them, and several."""
STYLE = {"ready": "green", "elsewhere": "green", "starting": "yellow", "leaving": "yellow", "silent": "red"}
TROUBLE = "trouble"
"""The figure that says why a part does not serve."""
RAM_ALONE = "Worlds are kept in memory alone and are gone when the service ends; `worldkv up --redis URL` keeps them."


def rows(status: pb.FleetStatusResponse) -> list[Row]:
    """One a part, for programs."""
    return [
        {
            "part": part.name,
            "kind": KIND[part.kind],
            "state": STATE[part.state],
            "address": part.address or None,
            "web": part.web or None,
            "metrics": part.metrics or None,
            "restarts": part.restarts,
            "figures": dict(part.figures),
        }
        for part in status.parts
    ]


def table(status: pb.FleetStatusResponse) -> Table:
    """What serves where, and how it is."""
    made = Table("part", "state", "serves on", "metrics", "started again", "says", box=None, pad_edge=False)
    for row in rows(status):
        figures = dict(row["figures"])
        trouble = figures.pop(TROUBLE, "")
        says = (
            trouble if row["state"] == "starting" else ", ".join(f"{name} {figures[name]}" for name in sorted(figures))
        )
        where = "  ".join(filter(None, (row["address"], row["web"] and f"http://{row['web']}")))
        made.add_row(
            Text(row["part"]),
            Text(row["state"], STYLE[row["state"]]),
            Text(where or "-"),
            Text(row["metrics"] or "-"),
            Text(f"{row['restarts']} x" if row["restarts"] else "-"),
            Text(says, "red" if trouble else ""),
        )
    return made


def summary(status: pb.FleetStatusResponse) -> Group:
    """The table, and what holds for all of it."""
    kept = f"Redis at {status.redis}." if status.redis else RAM_ALONE
    return Group(table(status), Text(""), Text(f"{kept}\nMembership {status.membership}, Ray at {status.ray}."))


def welcome(status: pb.FleetStatusResponse, run_dir: RunDir, detached: bool) -> RenderableType:
    """What is there now, and what to do with it."""
    gateways = [part for part in status.parts if part.kind == pb.PART_KIND_GATEWAY and part.address]
    lines = [
        ("walk", "worldkv walk --path R90_L90" if gateways else ""),
        ("in a browser", f"http://{gateways[0].web}/" if gateways and gateways[0].web else ""),
        ("look", "worldkv status"),
        ("more of it", "worldkv scale kvstore=2 generator=2"),
        ("logs", str(run_dir.logs)),
        ("end", "worldkv down" if detached else "Ctrl-C here, or worldkv down"),
    ]
    grid = Table.grid(padding=(0, 2))
    for name, text in lines:
        if text:
            grid.add_row(Text(f"  {name}", "bold"), Text(text))
    kept = f"Worlds are kept in Redis at {status.redis}." if status.redis else RAM_ALONE
    head = Text.assemble(("WorldKV is up", "bold green"), f": {_counted(status.parts)}.")
    return Group(head, Text(""), table(status), Text(""), grid, Text(""), Text(kept))


def _counted(parts: Iterable[pb.FleetPart]) -> str:
    kinds = [part.kind for part in parts]
    counts = {kind: kinds.count(kind) for kind in SAID if kind in kinds}
    return ", ".join(f"{count} {SAID[kind][count > 1]}" for kind, count in counts.items())
