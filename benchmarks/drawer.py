"""Steps of a session whose chunks are drawn beside the event loop, in one thread, as in the service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from services.generator.drawing import draw, window_for
from services.generator.session import Session
from services.generator.step import Step
from worldkv.actions import Action
from worldkv.window import Window


class Drawer:
    """Draws for one session; what is fetched and kept goes on meanwhile.

    placed_tokens  that were written into the window for the last step
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.placed_tokens = 0
        self._window: Window | None = None
        self._thread = ThreadPoolExecutor(1, "model")

    async def step(self, actions: Sequence[Action]) -> Step:
        """Draw the next chunk; see `Session.step`."""
        session, loop = self.session, asyncio.get_running_loop()
        draft = await session.begin(actions)
        try:
            self._window = window = window_for(session.model, draft.shape.sizes, self._window)
            before = window.moved_tokens
            (drawn,) = await loop.run_in_executor(self._thread, draw, session.model, window, [0], [draft])
            self.placed_tokens = window.moved_tokens - before
            return await session.end(draft, drawn)
        finally:
            session.abandon(draft)
