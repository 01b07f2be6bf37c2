"""What travels over a WebSocket, read and written."""

import json
import struct
from typing import Any

import pytest

from services.gateway.frames import MAX_REASON, closing, framed, parsed, replied
from worldkv.errors import AlreadyExists, InvalidInput, OverBudget
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb


def read(frame: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from(">I", frame)
    return json.loads(frame[4 : 4 + length]), frame[4 + length :]


def test_a_frame_says_how_long_each_picture_is():
    pictures = [pb.Picture(format=pb.PICTURE_FORMAT_JPEG, width=2, height=1, data=data) for data in (b"one", b"three")]
    said, rest = read(framed(pb.WalkResponse(drawn=pb.Drawn(number=7, pictures=pictures))))
    assert said["drawn"]["number"] == "7"
    assert [each["size"] for each in said["drawn"]["pictures"]] == [3, 5]
    assert all("data" not in each and each["width"] == 2 for each in said["drawn"]["pictures"])
    assert rest == b"onethree"


def test_what_has_no_pictures_is_json_alone():
    said, rest = read(framed(pb.WalkResponse(remembered=pb.Remembered(end=3))))
    assert (said, rest) == ({"remembered": {"end": "3"}}, b"")


def test_replies_carry_a_value_or_an_error():
    said, _ = read(replied("fork", pb.ForkResponse(world=chunk_pb2.World(name="w"))))
    assert said == {"reply": "fork", "value": {"world": {"name": "w"}}}
    said, _ = read(replied("fork", AlreadyExists("taken")))
    assert said == {"reply": "fork", "error": {"code": 6, "status": "ALREADY_EXISTS", "words": "taken"}}


def test_what_a_client_says_is_parsed():
    assert parsed('{"move": {"actions": [{"forward": 1}], "number": "9"}}') == (
        "move",
        pb.Move(actions=[pb.Action(forward=1)], number=9),
    )
    assert parsed('{"close": {}}') == ("close", pb.CloseRequest())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON: ''"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected one of open, join, move"),
        ("{}", "expected one of"),
        ('{"move": {}, "hold": {}}', "expected one of"),
        ('{"jump": {}}', "expected one of"),
        ('{"move": {"actions": [' + "{}," * 5000 + "{}]}}", "at most 4096 objects, got 5003"),
        ('{"move": {"nmber": 1}}', 'move: .*"nmber"'),
        ('{"move": {"number": "x"}}', "move: "),
        ('{"move": 3}', "move: "),
        ('{"move": null}', "move: "),
        ('{"move": {"actions": [3]}}', "move: "),
        ('{"move": {"actions": [{"forward": "far"}]}}', "move: "),
        ('{"move": {"actions": [{"forward": %s}]}}' % ("9" * 400), "move: "),
        ('{"join": {"session": "\\ud800"}}', "not JSON: .*surrogates"),
        ('{"join": {"\\ud800": 1}}', "not JSON: .*surrogates"),
        ('{"show": {"pictures": [{"data": 3}]}}', "show: "),
    ],
)
def test_what_is_no_message_is_refused_with_words(text, words):
    with pytest.raises(InvalidInput, match=words):
        parsed(text)


def test_reasons_fit_into_the_end_of_a_socket():
    assert closing(OverBudget("no room")) == (4008, b"no room")
    _, reason = closing(InvalidInput("ü" * 200))
    assert len(reason) <= MAX_REASON
    assert set(reason.decode()) == {"ü"}
