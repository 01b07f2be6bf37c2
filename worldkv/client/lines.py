"""The lines to all members of a membership, as long as they are members."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from worldkv.client.line import Line
from worldkv.client.membership import Member, Members, Membership


class Called(Protocol):
    """Whoever is called by a line."""

    @property
    def line(self) -> Line: ...


C = TypeVar("C", bound=Called)


class Lines(Generic[C]):
    """Lines are made when a member is first asked. That of one who is a member no more is closed when all calls that
    may have been routed to it before have ended.

    make     makes who is called
    seconds  that a call which names no deadline may take
    """

    def __init__(self, members: Members, make: Callable[[Member], C], seconds: float) -> None:
        self._members, self._newest = members, members()
        self._make, self._seconds = make, seconds
        self._made: dict[Member, C] = {}
        self._ending: dict[Member, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def membership(self) -> Membership:
        """The newest membership that was seen."""
        told = self._members()
        if told is not self._newest and told.number >= self._newest.number:
            self._newest = told
            self._look()
        return self._newest

    def of(self, member: Member) -> C:
        """Who is called for a member, of an older membership too."""
        if member not in self._made:
            self._made[member] = self._make(member)
            self._look()
        return self._made[member]

    async def close(self) -> None:
        """End all lines."""
        for ending in self._ending.values():
            ending.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        made, self._made = [*self._made.values()], {}
        for each in made:
            await each.line.close()

    def _look(self) -> None:
        """Begin to end the lines of those who are no members, and keep those of who came back."""
        everyone = self._newest.everyone
        for member in self._made:
            if member not in everyone and member not in self._ending:
                ending = self._ending[member] = asyncio.create_task(self._end(member), name=f"end line to {member}")
                self._tasks.add(ending)
                ending.add_done_callback(self._tasks.discard)
            elif member in everyone and member in self._ending:
                self._ending.pop(member).cancel()

    async def _end(self, member: Member) -> None:
        await asyncio.sleep(self._seconds)
        await self._made[member].line.idle()
        del self._ending[member]
        await self._made.pop(member).line.close()
