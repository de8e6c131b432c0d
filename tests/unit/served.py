"""A test's world as a deployment that a client can call: its control API on a socket of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from tests import http_server

from runvoy_agent.handlers.routes import Request

if TYPE_CHECKING:
    from tests.unit.conftest import World


@contextmanager
def served(world: World, port: int = 0) -> Iterator[str]:
    """The endpoint of the world, as long as the context is entered."""

    class Handler(http_server.Handler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(parts.query))
            response = world.call(Request(self.command, parts.path, self.path, query, headers, self.body(), "::1"))
            self.answer(response.status, response.body, response.content_type)

        do_GET = do_POST = do_PUT = do_DELETE = _serve

    with http_server.serving(Handler, port) as origin:
        yield origin
