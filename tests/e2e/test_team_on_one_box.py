"""Colleagues on other machines, through a proxy that ends TLS: `runvoy local up --host`."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Machine
from tests.servers.ministack_tls import make_certificate

from runvoy_protocol.claims import parse_token


class TlsProxy:
    """Ends TLS at a port of its own and passes the bytes on, as a web server does that is told `reverse_proxy`. `to_port` may
    be said later."""

    def __init__(self, certificate: Path, private: Path) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, private)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.to_port = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            caller = self._tls.wrap_socket(plain, server_side=True)
            with caller, socket.create_connection(("127.0.0.1", self.to_port)) as stack:
                answers = threading.Thread(target=_pass_on, args=(stack, caller), daemon=True)
                answers.start()
                _pass_on(caller, stack)
                answers.join()

    def close(self) -> None:
        self._listener.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[TlsProxy]:
    certificate, private = make_certificate(tmp_path)
    made = TlsProxy(certificate, private)
    yield made
    made.close()


@pytest.fixture
def colleague(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "colleague")
    made.env["SSL_CERT_FILE"] = str(tmp_path / "certificate.pem")
    yield made
    made.end()


def test_a_colleague_elsewhere_claims_runs_follows_and_looks(
    machine: Machine, engine: Path, proxy: TlsProxy, colleague: Machine
) -> None:
    (engine / "images" / "tool:1").touch()
    shown = json.loads(machine.ok("local", "up", "--host", proxy.host, "--containers-only", "--json"))
    assert (shown["host"], shown["host_processes"]) == (proxy.host, False)
    status = machine.ok("local", "status")
    assert f"for others  https://{proxy.host}\ncommands    in containers only\n" in status
    proxy.to_port = machine.endpoint()["port"]
    machine.ok("images", "register", "tool:1", "--default")

    token = machine.ok("users", "create", "bob@example.com", "--role", "developer").strip()
    assert parse_token(token).endpoint == f"https://{proxy.host}"
    colleague.ok("claim", token)
    assert json.loads(colleague.ok("whoami", "--json"))["endpoint"] == f"https://{proxy.host}"
    done = colleague("run", "echo from afar; exit 3")
    assert (done.returncode, done.stdout) == (3, b"from afar\n"), done
    execution_id = colleague.ok("submit", "echo once more").strip()
    colleague.ok("wait", execution_id)
    assert colleague.ok("logs", execution_id) == "once more\n"
    assert machine.status(execution_id)["isolation"] == "container"
    # Nobody's command is a process of the machine: not an admin's, not by asking for it.
    for who in (machine, colleague):
        refused = who("run", "--isolation", "process", "echo no")
        assert (refused.returncode, refused.stdout) == (121, b""), refused
    told = machine("keys", "create", "--name", "ci").stderr.decode()
    assert f"RUNVOY_ENDPOINT=https://{proxy.host} " in told
    assert machine.ok("web", "--no-open").startswith(f"https://{proxy.host}/#claim=")


def test_it_takes_containers_and_a_name(machine: Machine) -> None:
    for arguments in (
        ("--host", "team.example.com"),
        ("--host", "team.example.com", "--host-processes"),
        ("--host", "team.example.com/path", "--containers-only"),
        ("--host", "http://team.example.com", "--containers-only"),
        ("--host", "", "--containers-only"),
        ("--host", "our team.example.com", "--containers-only"),
        ("--host", "bücher.example", "--containers-only"),
    ):
        refused = machine("local", "up", *arguments)
        assert refused.returncode == 2, (arguments, refused)
    assert not (machine.home / "local" / "settings.json").exists()
    machine.ok("local", "up", "--host", "Team.example.com:443", "--containers-only")
    assert json.loads(machine.ok("local", "status", "--json"))["host"] == "team.example.com"
    machine.ok("local", "down")
    assert machine("local", "up", "--host-processes").returncode == 2
    machine.ok("local", "up", "--host", "none", "--host-processes")
    assert json.loads(machine.ok("local", "status", "--json"))["host"] is None
    assert machine.ok("run", "echo mine again") == "mine again\n"
