"""What waits on either side of a live session, how its pictures travel, and where its worlds begin."""

import asyncio
from dataclasses import replace

import pytest
import torch

from services.generator.live.inbox import NUMBERS, Holding, Inbox, Moving, Showing
from services.generator.live.outbox import Outbox
from services.generator.live.pictures import decoded, encoded
from services.generator.live.sent import Sent
from services.generator.scenes import scene
from services.generator.tier import Inside
from tests.toys import toy_spec
from worldkv.actions import Action
from worldkv.errors import Conflict, InvalidInput, OverBudget
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb


def drawn(index: int, nbytes: int = 100) -> pb.WalkResponse:
    key = chunk_pb2.ChunkKey(branch=bytes(16), index=index)
    return pb.WalkResponse(drawn=pb.Drawn(key=key, pictures=[pb.Picture(data=bytes(nbytes))]))


async def told(outbox: Outbox) -> list[pb.WalkResponse]:
    outbox.end()
    return [message async for message in outbox.messages()]


async def test_a_slow_client_loses_the_oldest_pictures_and_no_step():
    outbox, again = Outbox(250, 10, lambda: None), drawn(0)
    for message in (again, *map(drawn, range(1, 5))):
        outbox.put(message)
    found = await told(outbox)
    assert [each.drawn.key.index for each in found] == [0, 1, 2, 3, 4]
    assert [each.drawn.pictures_dropped for each in found] == [True, True, True, False, False]
    assert [len(each.drawn.pictures) for each in found] == [0, 0, 0, 1, 1]
    assert outbox.dropped == 3
    assert again.drawn.pictures, "who joins later is sent it whole"


def test_what_was_sent_is_at_hand_as_far_as_its_bytes_go_and_without_pictures_when_a_session_rests():
    sent, one = Sent(3 * drawn(1).ByteSize()), drawn(4)
    for message in (*map(drawn, range(4)), one):
        sent.add(message)
    assert [each.drawn.key.index for each in sent.since(0)] == [2, 3, 4]
    assert [each.drawn.key.index for each in sent.since(4)] == [4]
    sent.keep(lambda key: key.index > 2)
    sent.rest()
    found = sent.since(0)
    assert [(each.drawn.key.index, each.drawn.pictures_dropped) for each in found] == [(3, True), (4, True)]
    assert not any(each.drawn.pictures for each in found)
    assert one.drawn.pictures, "it may not have been sent yet"


async def test_pictures_of_the_newest_chunk_are_sent_however_large_they_are():
    outbox = Outbox(250, 10, lambda: None)
    for message in (drawn(0, 1000), drawn(1, 1000), pb.WalkResponse(remembered=pb.Remembered(end=1))):
        outbox.put(message)
    found = await told(outbox)
    assert [each.drawn.pictures_dropped for each in found] == [True, False, False]
    assert [len(each.drawn.pictures) for each in found] == [0, 1, 0]


async def test_an_outbox_is_full_when_too_much_waits_and_says_when_it_is_not():
    emptied: list[int] = []
    outbox = Outbox(1 << 20, 2, lambda: emptied.append(1))
    outbox.put(drawn(0))
    assert not outbox.full
    outbox.put(drawn(1))
    full = outbox.full
    await anext(outbox.messages())
    assert (full, outbox.full, emptied) == (True, False, [1])


async def test_an_outbox_ends_after_what_waits_or_at_once():
    for at_once, before in ((False, 1), (True, 0)):
        outbox = Outbox(1 << 20, 2, lambda: None)
        outbox.put(drawn(0))
        outbox.end(Conflict("taken over"), at_once)
        outbox.put(drawn(1))
        messages = outbox.messages()
        found = [await anext(messages) for _ in range(before)]
        with pytest.raises(Conflict):
            await anext(messages)
        assert len(found) == before


async def test_an_outbox_waits_for_messages():
    outbox = Outbox(1 << 20, 2, lambda: None)
    reading = asyncio.ensure_future(anext(outbox.messages()))
    await asyncio.sleep(0)
    assert not reading.done()
    outbox.put(drawn(3))
    assert (await reading).drawn.key.index == 3


def test_moves_wait_in_order_and_not_too_many():
    inbox = Inbox(2)
    first, second = Moving((Action(),), 1), Moving((Action(),), 2)
    inbox.put(first)
    inbox.put(second)
    with pytest.raises(OverBudget, match="2 moves wait"):
        inbox.put(Moving((Action(),), 3))
    assert [inbox.take(), inbox.take()] == [first, second]
    assert inbox.numbers == (1, 2)


def test_a_hold_gives_way_to_a_move_or_a_hold_that_is_said_after_it():
    inbox, last = Inbox(2), Holding(None, 2)
    inbox.put(Holding(Action(turn=1), 1))
    inbox.put(last)
    assert (len(inbox), inbox.take()) == (1, last)
    move, hold, show = Moving((Action(),), 3), Holding(None, 5), Showing((), (), 6)
    inbox = Inbox(3)
    for told in (Holding(Action(turn=1), 4), move, hold, show):
        inbox.put(told)
    assert [inbox.take() for _ in range(3)] == [move, hold, show]


def test_numbers_are_taken_once_unless_they_came_to_nothing():
    inbox, move = Inbox(9, [5]), Moving((Action(),), 6)
    inbox.put(Moving((Action(),), 5))
    assert len(inbox) == 0
    inbox.put(move)
    inbox.put(move)
    assert len(inbox) == 1
    inbox.clear()
    inbox.put(move)
    assert inbox.take() is move
    inbox.refuse(move)
    assert inbox.numbers == (5,)
    for number in range(10, 10 + 2 * NUMBERS):
        inbox.put(Moving((Action(),), number))
        inbox.take()
    assert len(inbox.numbers) == NUMBERS


@pytest.mark.parametrize("form", ["rgb8", "rgb32f", "jpeg"])
def test_pictures_travel_in_any_form(form):
    pictures = torch.linspace(0, 1, 2 * 3 * 16 * 24).reshape(2, 3, 16, 24)
    messages = encoded(pictures, form, 95)
    again = decoded(messages, 16, 24)
    worst = {"rgb32f": 0.0, "rgb8": 0.5 / 255 + 1e-6, "jpeg": 0.05}[form]
    assert (again - pictures).abs().max() <= worst


def test_a_film_that_is_larger_than_it_says_is_not_unpacked():
    (message,) = encoded(torch.zeros(1, 3, 160, 240), "jpeg", 90)
    message.width, message.height = 24, 16
    with pytest.raises(InvalidInput, match="240 x 160"):
        decoded([message], 16, 24)


def test_a_scene_is_the_same_every_time_and_other_models_make_of_words_what_they_will():
    spec = toy_spec()
    assert scene(spec, "rooms:7").start == scene(spec, "rooms:7").start != scene(spec, "rooms:8").start
    other = replace(spec, model="other")
    assert scene(other, "a harbour at dawn").pictures is None


def test_tenants_share_nothing_inside():
    tiers = Inside(1 << 20, 1 << 20)
    one, other = tiers("one"), tiers("other")
    assert tiers("one") is one
    assert one.store is not other.store
    assert one.worlds is not other.worlds
    assert one.snapshots is not other.snapshots
