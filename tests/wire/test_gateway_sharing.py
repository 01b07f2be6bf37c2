"""Links that hold tokens: what each lets its holder do, and nothing else."""

from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest

from tests.wire.securing import whole
from worldkv.actions import Action
from worldkv.client import WalkClient
from worldkv.errors import Forbidden


async def test_a_link_lets_its_holder_do_one_thing(tmp_path):
    async with whole(tmp_path) as made, aiohttp.ClientSession(f"http://{made.where.web}") as http:
        own = made.token()

        async def asked(path: str, token: str, said: Any = None, **query: str) -> tuple[int, Any]:
            shown = {"Authorization": f"Bearer {token}"}
            method = "GET" if said is None else "POST"
            async with http.request(method, path, json=said, params=query, headers=shown) as answer:
                return answer.status, await answer.json()

        async with WalkClient(made.gateway.address, token=own) as client, client.open(world="rooms") as walk:
            await walk.move(Action(turn=20))
            await walk.move(Action(turn=20))
            links = []
            for kind in ("watch", "world"):
                status, link = await asked(
                    "/v1/share", own, {"session": walk.session, "kind": kind, "at": 1, "seconds": 60}
                )
                assert (status, link["expires"] > 0) == (200, True)
                links.append({name: value for name, (value,) in parse_qs(link["fragment"]).items()})
            watch, world = links
            assert watch["watch"] == walk.opened.watch
            assert (world["at"], world["world"] != "rooms") == ("1", True)
            assert (await asked("/v1/look", watch["token"], session=watch["watch"]))[0] == 200
            for token in (watch["token"], world["token"]):
                for path, query in (("/v1/worlds", {}), ("/v1/sessions", {}), ("/v1/export", {"world": "rooms"})):
                    assert (await asked(path, token, **query))[0] == 403, path
                assert (await asked("/v1/share", token, {"session": walk.session, "kind": "watch"}))[0] == 403
            assert (await asked("/v1/look", watch["token"], session=walk.session))[0] == 403
            async with WalkClient(made.gateway.address, token=world["token"]) as guest:
                with pytest.raises(Forbidden, match="opens forks"):
                    async with guest.open(world=world["world"], at=1):
                        pass
                opening = {"world": world["world"], "at": 1, "fork": True}
                async with guest.open(**opening) as one, guest.open(**opening) as other:
                    for index in (1, 2):
                        for each in (one, other):
                            assert (await each.move(Action())).key.index == index
                    assert len({walk.opened.world.name, one.opened.world.name, other.opened.world.name}) == 3
            async with WalkClient(made.gateway.address, token=watch["token"]) as guest:
                async with guest.watch(watch["watch"]) as watched:
                    assert (await anext(watched)).key.index == 0
