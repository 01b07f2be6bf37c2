"""When requirements are looked up in an advisory database, and when that is left alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.advisories import KNOWN, answers


@contextmanager
def database(content: bytes, status: int = 200) -> Iterator[tuple[str, list[object]]]:
    """One that always says this, and what it was asked."""
    asked = list[object]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        server.shutdown()


def test_a_database_that_knows_what_is_known_is_asked():
    with database(b'{"vulns": [{"id": "GHSA-1"}]}') as (url, asked):
        assert answers(url) == ""
    assert asked == [KNOWN]


@pytest.mark.parametrize("content", [b"{}", b'{"vulns": []}', b"[]"])
def test_one_that_knows_of_nothing_is_none(content):
    with database(content) as (url, _):
        assert "knows of no flaw" in answers(url)


@pytest.mark.parametrize(("content", "status"), [(b"<html>", 200), (b"{}", 404)])
def test_one_that_answers_something_else_is_none(content, status):
    with database(content, status) as (url, _):
        assert "does not answer" in answers(url)


def test_where_nobody_listens_there_is_none():
    with database(b"{}") as (url, _):
        pass
    assert "does not answer" in answers(url)
