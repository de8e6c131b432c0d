"""What a task's runner takes for an answer, on a real server."""

from __future__ import annotations

import pytest
from tests.http_server import Handler, serving

from runvoy_agent.runner.http_calls import Connections, NoAnswer


class _Promises(Handler):
    """Says how long the body is, as its path has it, sends ten bytes, and leaves."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", self.path[1:])
        self.end_headers()
        self.wfile.write(b"ten bytes.")
        self.close_connection = True


def test_an_answer_that_is_cut_off_is_no_answer() -> None:
    with serving(_Promises) as origin:
        connections = Connections()
        with pytest.raises(NoAnswer, match="IncompleteRead"):
            connections.exchange("GET", f"{origin}/20", {}, b"", 60)
        # The next one begins on a connection of its own.
        assert connections.exchange("GET", f"{origin}/10", {}, b"", 60) == (200, b"ten bytes.")
