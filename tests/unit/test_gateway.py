"""What a gateway decides without a wire: placement, what is sent again, pages, what waits, settings."""

import asyncio
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.gateway.config import GatewayConfig
from services.gateway.metrics import Metrics
from services.gateway.placement import Load, ranked
from services.gateway.routing import merged
from services.gateway.unanswered import OURS, Unanswered
from services.gateway.waiting import Waiting
from tests.example_files import complete
from worldkv.config import load
from worldkv.errors import InvalidConfig, InvalidInput
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb

ROOT = Path(__file__).parents[2]
R, S = b"r" * 16, b"s" * 16


def names(loads: list[Load]) -> str:
    return "".join(load.name for load in loads)


def test_sessions_go_where_most_room_is():
    loads = [Load("a", 4, 2, ()), Load("b", 1, 5, ()), Load("c", 0, 5, ())]
    assert names(ranked(loads)) == "cba"


def test_a_known_root_goes_before_room_but_not_to_where_there_is_none():
    loads = [Load("a", 4, 2, {R}), Load("b", 1, 5, {S}), Load("c", 9, 0, {R})]
    assert names(ranked(loads, R)) == "abc"
    assert names(ranked(loads, b"x" * 16)) == "bac"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-2, 9), st.sets(st.sampled_from([R, S]))), max_size=6))
def test_everyone_is_tried_and_the_full_ones_last(given):
    loads = [Load(str(n), sessions, room, roots) for n, (sessions, room, roots) in enumerate(given)]
    order = ranked(loads, R)
    assert sorted(order, key=lambda load: load.name) == loads
    assert [load.room > 0 for load in order] == sorted((load.room > 0 for load in order), reverse=True)


def move(number: int = 0) -> pb.WalkRequest:
    return pb.WalkRequest(move=pb.Move(number=number))


def show(number: int = 0) -> pb.WalkRequest:
    return pb.WalkRequest(show=pb.Show(number=number))


def hold(number: int = 0) -> pb.WalkRequest:
    return pb.WalkRequest(hold=pb.Hold(number=number))


def drawn(index: int, number: int = 0) -> pb.WalkResponse:
    return pb.WalkResponse(drawn=pb.Drawn(key=chunk_pb2.ChunkKey(index=index), number=number))


def applied(chunk: int, number: int) -> pb.WalkResponse:
    return pb.WalkResponse(applied=pb.Applied(chunk=chunk, number=number))


def taking(*requests: pb.WalkRequest, next: int = 0) -> Unanswered:
    """What has taken and sent these, in a world whose next chunk this is."""
    made = Unanswered(8, 1 << 20)
    made.next = next
    for request in requests:
        made.take(request)
    sent(made)
    return made


def sent(unanswered: Unanswered) -> list[int]:
    """Numbers of all that is sent now."""
    found = []
    while (request := unanswered.send()) is not None:
        found.append(getattr(request, str(request.WhichOneof("message"))).number)
    return found


def test_what_is_drawn_is_not_sent_again():
    unanswered = taking(move(1), move(2), move(3))
    unanswered.answered(drawn(0, 1))
    unanswered.again()
    assert sent(unanswered) == [2, 3]
    assert unanswered.moved(1) == []
    assert sent(unanswered) == [2, 3]


def test_what_was_kept_and_not_delivered_is_told_and_not_sent_again():
    unanswered = taking(move(1), move(2), move(3), next=5)
    unanswered.answered(drawn(5, 1))
    missed = unanswered.moved(7)
    assert [(chunk, entry.number) for chunk, entry in missed if entry] == [(6, 2)]
    assert sent(unanswered) == [3]


def test_what_was_begun_and_not_kept_is_sent_again():
    unanswered = taking(move(1), move(2))
    unanswered.answered(applied(0, 1))
    assert unanswered.moved(0) == []
    assert sent(unanswered) == [1, 2]


def test_what_was_never_sent_was_not_drawn():
    unanswered = taking(hold(1))
    unanswered.take(move(2))
    assert [(each.chunk, each.entry) for each in unanswered.moved(1)] == [(0, None)]
    assert sent(unanswered) == [1, 2]


def test_a_hold_is_said_again_until_a_move_ends_it():
    unanswered = taking(hold(1))
    unanswered.answered(applied(0, 1))
    unanswered.answered(drawn(0))
    assert [each.entry for each in unanswered.moved(2)] == [None]
    assert sent(unanswered) == [1]
    unanswered.take(move(2))
    sent(unanswered)
    unanswered.answered(applied(4, 2))
    assert [each.entry and each.entry.number for each in unanswered.moved(5)] == [None, None, 2]
    assert sent(unanswered) == []


def test_a_show_does_not_end_a_hold():
    unanswered = taking(hold(1), show(2))
    unanswered.answered(applied(0, 1))
    unanswered.answered(drawn(3, 2))
    unanswered.again()
    assert sent(unanswered) == [1]


def test_of_several_holds_the_last_is_said_again():
    unanswered = taking()
    for number in range(1, 20):
        unanswered.take(hold(number))
        assert sent(unanswered) == [number]
    unanswered.again()
    assert sent(unanswered) == [19]


def test_what_has_no_number_gets_one_that_means_none_to_any_gateway():
    one, other = taking(), taking()
    one.take(move())
    one.take(move())
    first, second = sent(one)
    assert OURS < first < second
    for response in (drawn(0, second), applied(0, second)):
        other.answered(response)
        assert getattr(response, str(response.WhichOneof("message"))).number == 0
    response = drawn(0, first)
    one.answered(response)
    assert (response.drawn.number, len(one)) == (0, 1)


def test_what_a_session_dropped_when_it_was_taken_back_is_not_sent_again():
    unanswered = taking(move(1), move(2), next=5)
    unanswered.take(move(3))
    unanswered.taken_back(2)
    assert sent(unanswered) == [3]
    assert [(each.chunk, each.entry and each.entry.number) for each in unanswered.moved(3)] == [(2, 3)]


def change(number: int = 0) -> pb.WalkRequest:
    return pb.WalkRequest(configure=pb.Configure(number=number))


def refused(number: int) -> pb.WalkResponse:
    return pb.WalkResponse(refused=pb.Refused(number=number))


def test_a_change_is_sent_again_until_it_is_applied_or_refused():
    unanswered = taking(change(1), move(2), change(3), change(4))
    unanswered.answered(drawn(0, 2))
    unanswered.again()
    assert sent(unanswered) == [1, 3, 4], "a chunk does not answer it"
    unanswered.answered(applied(1, 1))
    unanswered.answered(refused(3))
    assert unanswered.moved(1) == []
    assert sent(unanswered) == [4]


def test_a_change_is_no_move_and_outlives_being_taken_back():
    unanswered = taking(change(1), move(2), hold(3), change(4), next=5)
    assert [(each.chunk, each.entry and each.entry.number) for each in unanswered.moved(6)] == [(5, 2)]
    assert sent(unanswered) == [1, 3, 4]
    unanswered.taken_back(2)
    unanswered.again()
    assert sent(unanswered) == [1, 4]


def test_a_change_without_a_number_means_none_to_its_client():
    unanswered = taking(change())
    unanswered.again()
    (number,) = sent(unanswered)
    response = refused(number)
    unanswered.answered(response)
    assert (response.refused.number, len(unanswered)) == (0, 0)


def test_numbers_of_gateways_are_refused():
    with pytest.raises(InvalidInput, match=r"move\.number"):
        taking(move(OURS))


STEPS = ("take", "send", "begin", "say", "draw", "deliver", "die")


@given(st.integers(1, 12), st.lists(st.sampled_from(STEPS)))
def test_nothing_is_lost_and_nothing_drawn_twice(count, steps):
    """A model of generators that die anywhere: what they draw and what is told is what was taken, in order."""
    unanswered, waiting, told = taking(), list(range(1, count + 1)), list[int]()
    world, inbox, begun = list[int](), list[int](), False  # begun: the first in the inbox is being drawn

    def moved() -> list[int]:
        return [entry.number for _, entry in unanswered.moved(len(world)) if entry]

    for step in steps + ["die"] + ["take", "send", "begin", "say", "draw", "deliver"] * count:
        if step == "take" and waiting and not unanswered.full:
            unanswered.take(move(waiting.pop(0)))
        elif step == "send" and (request := unanswered.send()) is not None:
            inbox.append(request.move.number)
        elif step == "begin":
            begun = bool(inbox)
        elif step == "say" and begun:
            unanswered.answered(applied(len(world), inbox[0]))
        elif step == "draw" and begun:
            world.append(inbox.pop(0))
            begun = False
        elif step == "deliver" and len(told) < len(world):
            unanswered.answered(drawn(len(told), world[len(told)]))
            told.append(world[len(told)])
        elif step == "die":
            told += moved()
            inbox, begun = [], False
    assert world == told == list(range(1, count + 1))


def test_it_is_full_by_count_and_by_bytes():
    large = pb.WalkRequest(show=pb.Show(number=1, pictures=[pb.Picture(data=bytes(200))]))
    unanswered, full = Unanswered(2, 100), []
    for request in (large, move(2), move(3)):
        full.append(unanswered.full)
        unanswered.take(request)
        full.append(unanswered.full)
        if request is large:
            sent(unanswered)
            unanswered.answered(drawn(0, 1))
    assert full == [False, True, False, False, False, True]


def page(token: str, *sessions: str, **values: Any) -> pb.ListResponse:
    found = [pb.SessionSummary(session=each, **values) for each in sessions]
    return pb.ListResponse(sessions=found, next_page_token=token)


def test_pages_are_merged_up_to_where_all_are_known():
    together = merged([page("d", "a", "d"), page("", "b", "e"), page("")], 10)
    assert [each.session for each in together.sessions] == ["a", "b", "d"]
    assert together.next_page_token == "d"


def test_a_session_that_two_list_is_shown_once_as_it_lives():
    together = merged([page("", "a", suspended=True, next=9), page("", "a", next=3), page("", "a", joined=True)], 10)
    assert [(each.joined, each.suspended) for each in together.sessions] == [(True, False)]
    assert together.next_page_token == ""


def picture(size: int, number: int) -> pb.WalkResponse:
    return pb.WalkResponse(drawn=pb.Drawn(number=number, pictures=[pb.Picture(data=bytes(size))]))


async def test_the_oldest_pictures_that_wait_are_left_out():
    waiting = Waiting(most_bytes=10, most=10)
    for number in range(1, 5):
        await waiting.put(picture(4, number))
        await waiting.put(b"frame")
    await waiting.put(picture(100, 5))
    await waiting.end()
    taken = []
    while (answer := await waiting.take()) is not None:
        taken.append(answer)
    chunks = [each.drawn for each in taken if isinstance(each, pb.WalkResponse)]
    assert [(each.number, len(each.pictures), each.pictures_dropped) for each in chunks] == [
        (1, 0, True),
        (2, 0, True),
        (3, 0, True),
        (4, 0, True),
        (5, 1, False),
    ]
    assert (len(taken), waiting.dropped) == (9, 4)


async def test_who_puts_waits_when_too_much_waits():
    waiting = Waiting(most_bytes=10, most=1)
    await waiting.put(b"one")
    putting = asyncio.create_task(waiting.put(b"two"))
    await asyncio.sleep(0.01)
    assert not putting.done()
    assert await waiting.take() == b"one"
    await putting
    assert await waiting.take() == b"two"


def test_the_example_names_every_setting_with_its_default():
    text = complete(ROOT / "services" / "gateway" / "gateway.toml", GatewayConfig)
    commented = [line.removeprefix("# ") for line in text.splitlines() if re.match(r"# \w+ = ", line)]
    written = {name for line in commented for name in tomllib.loads(line)}
    assert written == {"generators", "members", "folder", "certificate", "key", "authority", "secret"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"GENERATORS": "a:1", "MEMBERS": "x.toml"}, "one of both"),
        ({"ROUTING__PING_SECONDS": "0"}, "routing.ping_seconds = 0"),
        ({"ROUTING__SILENT_SECONDS": "inf"}, "routing.silent_seconds"),
        ({"ROUTING__DEADLINE_SECONDS": "-1"}, "routing.deadline_seconds"),
        ({"ROUTING__FAILOVER_SECONDS": "-1"}, "routing.failover_seconds"),
        ({"ROUTING__MOST_UNANSWERED": "0"}, "routing.most_unanswered"),
        ({"ROUTING__UNANSWERED_BYTES": "0"}, "routing.unanswered_bytes"),
        ({"ROUTING__MOST_WORLDS": "0"}, "routing.most_worlds"),
        ({"WEB__ADDRESS": "here"}, "'here'"),
        ({"WEB__ORIGINS": "example.org"}, "'example.org' is no origin"),
        ({"WEB__ORIGINS": "https://example.org/"}, "is no origin"),
        ({"WEB__FOLDER": "/nowhere/at/all"}, "is no folder"),
        ({"WEB__MESSAGE_BYTES": "10"}, "web.message_bytes"),
        ({"WEB__PICTURE_BYTES": "0"}, "web.picture_bytes"),
        ({"WEB__MOST_WAITING": "0"}, "web.most_waiting"),
        ({"WEB__BEAT_SECONDS": "0"}, "web.beat_seconds"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    environment = {f"WORLDKV_GATEWAY_{name}": value for name, value in settings.items()}
    with pytest.raises(InvalidConfig, match=re.escape(words)):
        load(GatewayConfig, "WORLDKV_GATEWAY_", None, environment)


def test_the_page_of_metrics_is_written_down():
    registry = CollectorRegistry()
    Metrics(registry)
    text = (ROOT / "docs" / "metrics.md").read_text()
    written = set(re.findall(r"worldkv_gateway_\w+", text))
    shown = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    assert written == shown
