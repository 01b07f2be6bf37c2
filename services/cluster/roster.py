"""Who there is: the nouns that the supervisor, the parts and the programs that run them speak of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from worldkv.client import Member
from worldkv.errors import InvalidInput

Kind = Literal["kvstore", "retriever", "generator", "gateway"]
KINDS: tuple[Kind, ...] = ("kvstore", "retriever", "generator", "gateway")
"""In the order in which they start: each needs those before it. They end the other way round."""
State = Literal["starting", "ready", "silent", "leaving", "elsewhere"]


class Where(NamedTuple):
    """Where a part is reached, each `host:port`; `metrics` and `web` are empty where it has none."""

    address: str
    metrics: str = ""
    web: str = ""


@dataclass(frozen=True)
class Roster:
    """All memberships at a time.

    number   rises with every change
    members  of each kind, that are there to stay
    leaving  of each kind, that are about to end
    wanted   how many of each kind there shall be
    foreign  kinds whose members are not supervised here: their membership is told without a number, for it is not
             ours to count
    supervisor  host:port of who tells all this; empty: nobody is to know
    """

    number: int = 0
    members: Mapping[Kind, tuple[Member, ...]] = field(default_factory=dict)
    leaving: Mapping[Kind, tuple[Member, ...]] = field(default_factory=dict)
    wanted: Mapping[Kind, int] = field(default_factory=dict)
    foreign: frozenset[Kind] = frozenset()
    supervisor: str = ""

    def alone(self, kind: Kind, name: str) -> Roster:
        """This roster for a part that ends together with all others of its kind: nobody stays whom it could hand
        anything."""
        itself = [each for each in (*self.members[kind], *self.leaving[kind]) if each.name == name]
        return replace(self, members={**self.members, kind: tuple(itself)}, leaving={**self.leaving, kind: ()})

    def text(self, kind: Kind) -> str:
        """One kind's membership as `worldkv.client.MembershipFile` reads it."""
        number = 0 if kind in self.foreign else self.number
        lists = (_list(self.members.get(kind, ())), _list(self.leaving.get(kind, ())))
        return f"number = {number}\nshards = {lists[0]}\nleaving = {lists[1]}\n"

    def write(self, folder: Path) -> None:
        """Put every kind's membership into `folder`, which is made, as `kvstore.toml` and so on, and where the
        supervisor is; readers of a file see the one before it or this one. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kind in KINDS:
            replace_file(membership_file(folder, kind), self.text(kind))
        if self.supervisor:
            replace_file(supervisor_file(folder), f"{self.supervisor}\n")


class Pulse(NamedTuple):
    """What a part that runs says of itself.

    where    it serves
    idle     seconds since what serves did last come round to anything
    figures  for people
    roster   the newest that it was told
    """

    where: Where
    idle: float
    figures: Mapping[str, str]
    roster: Roster


def membership_file(folder: Path, kind: Kind) -> Path:
    """Where in a folder a kind's membership stands."""
    return folder / f"{kind}.toml"


def supervisor_file(folder: Path) -> Path:
    """Where in a folder it stands where the supervisor is."""
    return folder / "supervisor"


def replace_file(file: Path, text: str) -> None:
    """Write a file at once: nobody reads half of it. Raises OSError."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    os.replace(new, file)


def name_of(kind: Kind, number: int) -> str:
    """Name of the part of this number, from 1."""
    return f"{kind}-{number}"


def parsed(name: str) -> tuple[Kind, int]:
    """Kind and number of a part called so; InvalidInput if none is."""
    kind, _, number = name.rpartition("-")
    for each in KINDS:
        if each == kind and number.isdecimal() and int(number) > 0:
            return each, int(number)
    raise InvalidInput(f"{name!r} is no name of a part: expected KIND-NUMBER")


def _list(members: Iterable[Member]) -> str:
    return json.dumps([f"{each.name}={each.address}" for each in members])
