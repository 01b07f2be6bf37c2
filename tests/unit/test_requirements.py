"""What is installed is what is written down: every requirement, asked for or drawn in by another, has a pin and a
licence that lets it be used. `make audit` asks whether something is known against it."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
UNPINNED = {"setuptools", "worldkv"}
"""What comes with the interpreter's environment, and ourselves."""
LICENCES = re.compile(r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla Public License)\b")
"""Licences that ask for no more than to be named, or to give back changes of theirs alone."""
UNFIT = re.compile(r"\b(A?GPL|LGPL|SSPL|Proprietary|Commercial)\b|GNU", re.IGNORECASE)


def pins() -> Iterator[tuple[str, str]]:
    for line in CONSTRAINTS.read_text().splitlines():
        name, _, version = line.partition("==")
        yield canonicalize_name(name), version


@cache
def needed() -> dict[str, Distribution]:
    """All that `worldkv[all]` needs here, as it is installed."""
    found: dict[str, Distribution] = {}
    known: dict[str, set[str]] = {}
    left = [Requirement("worldkv[all]")]
    while left:
        wanted = left.pop()
        name = str(canonicalize_name(wanted.name))
        if name in known and wanted.extras <= known[name]:
            continue
        known.setdefault(name, set()).update(wanted.extras)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # a part of the installation that is not made here
        for text in found[name].requires or ():
            each = Requirement(text)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in {"", *known[name]}):
                left.append(each)
    return found


def test_every_pin_is_exact():
    assert [line for line in CONSTRAINTS.read_text().splitlines() if not re.fullmatch(r"[\w.-]+==[\w.+!]+", line)] == []
    names = [name for name, _ in pins()]
    assert len(names) == len(set(names))


def test_all_that_is_needed_is_pinned():
    assert needed().keys() - dict(pins()).keys() - UNPINNED == set()


@pytest.mark.parametrize("name", sorted(needed()))
def test_what_is_installed_is_what_is_pinned_and_may_be_used(name):
    here = needed()[name]
    if name not in UNPINNED:
        assert Version(here.version).public == dict(pins())[name]
    licence = licence_of(here)
    assert LICENCES.search(licence), licence
    assert not UNFIT.search(licence), licence


def licence_of(here: Distribution) -> str:
    """In its own words; of one that says nothing the head of its licence file."""
    about = here.metadata
    trove = [each for each in about.get_all("Classifier") or () if each.startswith("License ::")]
    named = {name: about[name] for name in ("License-Expression", "License") if name in about}
    if said := named.get("License-Expression") or "; ".join(trove) or named.get("License", "")[:80]:
        return said
    files = [each for each in here.files or () if "LICEN" in each.name.upper()]
    return files[0].read_text()[:80] if files else "none"
