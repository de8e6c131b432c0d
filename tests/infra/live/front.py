"""Where the function URL resolves: a front on loopback that hands each request to MiniStack as one to the URL's own host."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests import http_server

_ANSWER_SECONDS = 60
_NOT_PASSED_ON = ("host", "connection", "content-length")


@contextmanager
def serving(server_url: str, certificate: Path, function_url: str) -> Iterator[str]:
    """The front's own URL."""
    host, port = urlsplit(server_url).hostname, urlsplit(server_url).port
    function_host = urlsplit(function_url).hostname
    trusting = ssl.create_default_context(cafile=str(certificate))

    class Handler(http_server.Handler):
        def pass_on(self) -> None:
            body = self.body()
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
            connection = http.client.HTTPSConnection(host or "", port, context=trusting, timeout=_ANSWER_SECONDS)
            try:
                connection.request(self.command, self.path, body, {**headers, "Host": function_host or ""})
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            self.answer(answer.status, content, answer.headers.get("Content-Type", ""))

        do_GET = do_POST = do_DELETE = pass_on

    with http_server.serving(Handler) as origin:
        yield origin
