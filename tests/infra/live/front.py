"""Where the function URL resolves: a front on loopback that hands each request to MiniStack as one to the URL's own host."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_ANSWER_SECONDS = 60
_NOT_PASSED_ON = ("host", "connection", "content-length")


@contextmanager
def serving(server_url: str, certificate: Path, function_url: str) -> Iterator[str]:
    """The front's own URL."""
    host, port = urlsplit(server_url).hostname, urlsplit(server_url).port
    function_host = urlsplit(function_url).hostname
    trusting = ssl.create_default_context(cafile=str(certificate))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
            connection = http.client.HTTPSConnection(host or "", port, context=trusting, timeout=_ANSWER_SECONDS)
            try:
                connection.request(self.command, self.path, body, {**headers, "Host": function_host or ""})
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_one

        def log_message(self, *_: object) -> None:
            """A test's output is its own."""

    front = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.daemon_threads = True
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{front.server_address[1]}"
    finally:
        front.shutdown()
        thread.join()
        front.server_close()
