"""Rendezvous hashing, and where a membership comes from."""

import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv.chunk import ChunkKey
from worldkv.client.membership import Member, Membership, MembershipFile, fixed, name_of
from worldkv.errors import InvalidConfig

names = st.lists(st.text("abcdef0123456789-", min_size=1, max_size=8), min_size=1, max_size=8, unique=True)
keys = st.binary(min_size=24, max_size=24)


def members(names: list[str]) -> tuple[Member, ...]:
    return tuple(Member(name, f"host:{n + 1}") for n, name in enumerate(names))


@given(names, keys)
def test_a_ranking_names_everyone_once_wherever_they_live(names, key):
    ranked = [member.name for member in Membership(1, members(names)).ranked(key)]
    assert sorted(ranked) == sorted(names)
    moved = tuple(Member(name, "elsewhere:1") for name in reversed(names))
    assert [member.name for member in Membership(2, moved).ranked(key)] == ranked


@given(names, keys, st.data())
def test_who_stays_keeps_the_order_when_somebody_goes(names, key, data):
    gone = data.draw(st.sampled_from(names))
    before = [member for member in Membership(1, members(names)).ranked(key) if member.name != gone]
    if before:
        assert Membership(1, members(names)).without(gone).ranked(key) == before


@given(names, keys, st.integers(0, 8))
def test_those_who_leave_are_ranked_as_before(names, key, leaving):
    all_of = members(names)
    leaving = min(leaving, len(all_of) - 1)
    parted = Membership(2, all_of[leaving:], all_of[:leaving])
    assert parted.ranked(key) == Membership(1, all_of).ranked(key)


def test_chunks_spread_evenly():
    membership = Membership(1, members(["a", "b", "c", "d"]))
    first = Counter(
        membership.ranked(name_of(ChunkKey(bytes([branch]) * 16, index)))[0].name
        for branch in range(20)
        for index in range(200)
    )
    assert all(850 < count < 1150 for count in first.values()), first


def test_a_ranking_never_changes_between_versions():
    membership = Membership(1, members(["a", "b", "c"]))
    ranked = ["".join(m.name for m in membership.ranked(name_of(ChunkKey(b"b" * 16, n)))) for n in range(6)]
    assert ranked == RANKED


RANKED = ["bca", "cab", "cab", "cba", "bca", "cab"]


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("a=host:1", Member("a", "host:1")),
        ("host:1", Member("host:1", "host:1")),
        ("a=b=[::1]:70", Member("a=b", "[::1]:70")),
    ],
)
def test_members_are_read_from_text(text, member):
    assert Member.of(text) == member


@pytest.mark.parametrize("text", ["", "a", "a=", "=host:1", "a=host", "a=host:", "a=host:0", "a=host:65536", "host:x"])
def test_what_is_no_member_is_refused(text):
    with pytest.raises(InvalidConfig, match="host:port"):
        Member.of(text)


def test_a_membership_that_cannot_be_is_refused():
    for number, shards, leaving in [
        (-1, ["a:1"], []),
        (1, [], ["a:1"]),
        (1, ["a:1", "a:1"], []),
        (1, ["a:1"], ["a:1"]),
    ]:
        with pytest.raises(InvalidConfig):
            Membership.of(number, shards, leaving)


def test_a_fixed_membership_compares_nothing():
    assert fixed("a=h:1", "b=h:2")() == Membership.of(0, ["a=h:1", "b=h:2"])


def test_a_file_is_read_again_when_it_was_replaced(tmp_path):
    path = tmp_path / "members.toml"

    def write(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", path)

    write('number = 1\nshards = ["a=h:1", "b=h:2"]')
    told = MembershipFile(path)
    assert told() == Membership.of(1, ["a=h:1", "b=h:2"])
    write('number = 2\nshards = ["b=h:2"]\nleaving = ["a=h:1"]')
    assert told() == Membership.of(2, ["b=h:2"], ["a=h:1"])
    write("number = ")
    assert told().number == 2, "what cannot be read changes nothing"
    path.unlink()
    assert told().number == 2
    write('number = 3\nshards = ["b=h:2"]')
    assert told() == Membership.of(3, ["b=h:2"])


@pytest.mark.parametrize(
    "text",
    ["number", 'number = "1"\nshards = ["a:1"]', 'shards = "a:1"', "shards = [1]", 'shards = ["a:1"]\nmore = 1', ""],
)
def test_a_malformed_file_stops_who_reads_it_first(tmp_path, text):
    path = tmp_path / "members.toml"
    path.write_text(text)
    with pytest.raises(InvalidConfig):
        MembershipFile(path)()
    with pytest.raises(InvalidConfig, match="missing"):
        MembershipFile(tmp_path / "missing")()
