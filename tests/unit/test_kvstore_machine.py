"""A shard whose memory cannot be had says so before it touches any."""

import pytest

from services.kvstore.config import ServingConfig
from services.kvstore.machine import check_room, memory_bytes
from worldkv.errors import InvalidConfig


@pytest.fixture
def machine(tmp_path):
    """A machine of 8 GiB, and where its container's limit would be."""
    (tmp_path / "meminfo").write_text("MemFree:  1 kB\nMemTotal:       8388608 kB\n")
    return tmp_path / "meminfo", (tmp_path / "memory.max",)


@pytest.mark.parametrize(
    ("said", "there"), [(None, 8 << 30), ("max", 8 << 30), ("2147483648", 2 << 30), (str(1 << 62), 8 << 30)]
)
def test_memory_is_what_the_container_may_have(machine, said, there):
    meminfo, (limit,) = machine
    if said is not None:
        limit.write_text(f"{said}\n")
    assert memory_bytes(meminfo, (limit,)) == there


def test_where_nobody_says_nothing_is_refused(tmp_path):
    check_room(1 << 60, tmp_path / "none", (tmp_path / "none",))


def test_a_budget_above_the_machine_is_refused(machine):
    check_room((8 << 30) - 1, *machine)
    with pytest.raises(InvalidConfig, match=r"budget_bytes = 8589934592: .* has 8589934592 bytes"):
        check_room(8 << 30, *machine)


def test_a_state_that_has_no_room_is_refused():
    with pytest.raises(InvalidConfig, match=r"snapshots_bytes = 9: expected at least snapshot_bytes \(10\)"):
        ServingConfig(snapshot_bytes=10, snapshots_bytes=9)
