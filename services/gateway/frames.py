"""What travels over a WebSocket: text with one JSON object from a client, bytes to it.

A client sends `{"open": {...}}` or `{"join": {...}}`, then `{"move": ...}`, `{"show": ...}`, `{"hold": ...}`,
`{"configure": ...}`, and `{"fork": ...}`, `{"rewind": ...}`, `{"close": {}}`: the protobuf JSON mapping of the messages
of `sessions.proto` that are called so. It is answered with frames, each

    4 bytes, big-endian      length of what follows
    JSON                     a WalkResponse, or {"reply": "open", "value": {...}}, or with "error" in place of "value"
    bytes                    the pictures one after the other; each says its `size` in the JSON, in place of its data
"""

from __future__ import annotations

import json
import struct
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from worldkv import rpc
from worldkv.errors import InvalidInput, WorldKVError
from worldkv.v1 import sessions_pb2 as pb

CLOSE_CODE = 4000
"""A socket that ends with an error is closed with this and the number of the gRPC status."""
MAX_REASON = 123
"""Bytes of words with which a socket is closed."""
MOST_OBJECTS = 4096
"""In one message: each takes a moment to be read, and meanwhile nobody else is served."""
MAX_SHOWN = 200
"""Characters of what a client sent that an error repeats."""

M = TypeVar("M", bound=Message)

KINDS: dict[str, type[Message]] = {
    "open": pb.OpenRequest,
    "join": pb.Join,
    "move": pb.Move,
    "show": pb.Show,
    "hold": pb.Hold,
    "configure": pb.Configure,
    "fork": pb.ForkRequest,
    "rewind": pb.RewindRequest,
    "close": pb.CloseRequest,
}
"""What a client says, by the name of the one object that it sends."""


def parsed(text: str) -> tuple[str, Any]:
    """What a client said: its kind and message. Raises InvalidInput for what is none."""
    if (objects := text.count("{")) > MOST_OBJECTS:
        raise InvalidInput(f"a message has at most {MOST_OBJECTS} objects, got {objects}: {text[:MAX_SHOWN]!r}")
    try:
        said = json.loads(text)
        if "\\u" in text:
            json.dumps(said, ensure_ascii=False).encode()  # half a character is no text
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {text[:MAX_SHOWN]!r}: {error}") from error
    if not isinstance(said, dict) or len(said) != 1 or (kind := next(iter(said))) not in KINDS:
        raise InvalidInput(f"expected one of {', '.join(KINDS)}, got {text[:MAX_SHOWN]!r}")
    if not isinstance(said[kind], dict):
        raise InvalidInput(f"{kind}: expected an object, got {text[:MAX_SHOWN]!r}")
    try:
        return kind, json_format.ParseDict(said[kind], KINDS[kind]())
    except (json_format.ParseError, OverflowError) as error:  # the second for numbers of hundreds of digits
        raise InvalidInput(f"{kind}: {error}") from error


def framed(response: pb.WalkResponse) -> bytes:
    """The frame of an answer, whose pictures lose their data."""
    pictures = response.drawn.pictures if response.HasField("drawn") else ()
    datas = [picture.data for picture in pictures]
    for picture in pictures:
        picture.ClearField("data")
    said = json_format.MessageToDict(response)
    for data, picture in zip(datas, said["drawn"]["pictures"] if datas else ()):
        picture["size"] = len(data)
    return _frame(said, *datas)


def replied(kind: str, answer: Message | WorldKVError) -> bytes:
    """The frame that answers a fork, a rewind, an open or a close."""
    if isinstance(answer, WorldKVError):
        code = rpc.status_of(answer)
        return _frame({"reply": kind, "error": {"code": code.value[0], "status": code.name, "words": str(answer)}})
    return _frame({"reply": kind, "value": json_format.MessageToDict(answer)})


def closing(error: WorldKVError) -> tuple[int, bytes]:
    """Code and reason that a socket is closed with."""
    code: int = rpc.status_of(error).value[0]
    return CLOSE_CODE + code, str(error).encode()[:MAX_REASON].decode(errors="ignore").encode()


def _frame(said: dict[str, Any], *datas: bytes) -> bytes:
    head = json.dumps(said, separators=(",", ":")).encode()
    return b"".join((struct.pack(">I", len(head)), head, *datas))
