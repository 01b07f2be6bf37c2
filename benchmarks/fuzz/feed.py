"""python -m benchmarks.fuzz.feed SEED COUNT: feed every target its share of COUNT messages; a line of JSON each."""

from __future__ import annotations

import json
import logging
import random
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import FrameType

from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.targets import Target, targets
from worldkv.errors import WorldKVError

SECONDS = 5.0
"""That a message may take; then it hangs."""
MOST_BYTES = 8 << 30
"""Of address space: a message that asks for more is a crash."""
MOST_TOLD = 5
"""Problems of a target that are told; all are counted."""


@dataclass
class Fed:
    """What came of a target.

    messages  it was fed
    refused   of these, by an error of ours
    problems  crashes, hangs and wrong data
    words     the first of these, each with its message
    """

    target: str
    messages: int = 0
    refused: int = 0
    problems: int = 0
    words: list[str] = field(default_factory=list)


class Hangs(BaseException):
    """A message took too long; nobody who catches errors catches it."""


def feed(target: Target, seed: int, count: int) -> Fed:
    """So many messages; the same for the same seed."""
    rng, fed = random.Random(f"{seed} {target.name}"), Fed(target.name)
    right = [target.read(each) for each in target.seeds] if target.sealed else []
    for _ in range(count):
        data = mutated(rng, target.seeds)
        fed.messages += 1
        wrong = _wrong(target, data, right, fed)
        if wrong:
            fed.problems += 1
            if len(fed.words) < MOST_TOLD:
                fed.words.append(f"{wrong}, message {data[:400].hex()}")
    return fed


def _wrong(target: Target, data: bytes, right: Sequence[object], fed: Fed) -> str:
    """What is wrong with how a message was taken; empty: nothing."""
    seconds = SECONDS if signal.getsignal(signal.SIGALRM) is _hangs else 0.0  # in a test the clock is another's
    if seconds:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = target.read(data)
    except WorldKVError:
        fed.refused += 1
        return ""
    except Hangs:
        return f"it took more than {seconds:g} s"
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
    finally:
        if seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return "it was read as something else" if target.sealed and found not in right else ""


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Hangs


def main(seed: int, count: int) -> None:
    """Feed all; a target that ends this process is the one after the last that was told."""
    signal.signal(signal.SIGALRM, _hangs)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    logging.disable()
    found = targets()
    for target in found:
        print(json.dumps(asdict(feed(target, seed, -(-count // len(found))))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
