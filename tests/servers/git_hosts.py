"""Real Git hosts on loopback: a repository with branches, tags and folders; smart HTTP with a password; sshd."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests import http_server

USER = "x-access-token"
TOKEN = "glpat-Zx9_Qw7-Lm3kPs5t"
_GIT_ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
}


def git(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> str:
    """Run git in a folder; its output."""
    whole = {"PATH": os.environ["PATH"], "HOME": str(folder), **_GIT_ENV, **(env or {})}
    done = subprocess.run(["git", "-C", str(folder), *words], env=whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Repository:
    """`bare` has three commits on `main`, a branch `feature/x`, a tag `v1` (annotated) and a branch and a tag both called `both`.

    In it: `say` (prints the branch), `envs/prod/` with a file, links that lead into and out of it.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("git") is None:
            pytest.skip("there is no git on this machine")
        self.bare = folder / "infra.git"
        self._work = folder / "work"
        self._work.mkdir(parents=True)
        git(self._work, "init", "--quiet", "-b", "main")
        (self._work / "envs" / "prod").mkdir(parents=True)
        (self._work / "envs" / "prod" / "where").write_text("prod\n")
        (self._work / "out").symlink_to("/etc")
        (self._work / "up").symlink_to("../..")
        (self._work / "in").symlink_to("envs/prod")
        script = self._work / "run.sh"
        script.write_text("#!/bin/sh\necho ran\n")
        script.chmod(0o755)
        self.first = self.commit("first")
        git(self._work, "tag", "-a", "v1", "-m", "the first")
        git(self._work, "tag", "both")
        self.second = self.commit("second")
        git(self._work, "switch", "--quiet", "-c", "feature/x")
        self.feature = self.commit("feature")
        git(self._work, "branch", "both")
        git(self._work, "switch", "--quiet", "main")
        self.main = self.commit("third")
        git(folder, "clone", "--quiet", "--bare", str(self._work), str(self.bare))

    def commit(self, text: str) -> str:
        (self._work / "say").write_text(f"{text}\n")
        git(self._work, "add", "--all")
        git(self._work, "commit", "--quiet", "-m", text)
        return git(self._work, "rev-parse", "HEAD")


class HttpHost:
    """Git's own smart HTTP program behind a server that asks for a password. `is_old`: it speaks protocol version 0, which
    hands out no commit that no ref points to. With a `certificate` (and its key) it speaks TLS. `is_stuck`: it lets every caller wait."""

    def __init__(self, root: Path, *, is_private: bool = True, certificate: tuple[Path, Path] | None = None) -> None:
        self.is_private = is_private
        self.is_old = False
        self.is_stuck = threading.Event()
        self.asked = threading.Event()
        self.redirect_to = ""
        self.authorizations: list[str] = []
        self._end = threading.Event()
        host = self

        class Handler(http_server.Handler):
            def do_GET(self) -> None:
                host.answer(self, root, b"")

            def do_POST(self) -> None:
                host.answer(self, root, self.body())

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return super().body()
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole

        tls = None
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*certificate)
        self._server = http_server.Server(Handler, tls=tls)
        self.url = self._server.origin

    def close(self) -> None:
        self._end.set()
        self._server.close()

    def answer(self, handler: BaseHTTPRequestHandler, root: Path, body: bytes) -> None:
        self.asked.set()
        while self.is_stuck.is_set() and not self._end.wait(0.02):
            pass
        given = handler.headers.get("Authorization", "")
        if given:
            self.authorizations.append(given)
        if self.redirect_to:
            handler.send_response(301)
            handler.send_header("Location", self.redirect_to + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        wanted = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
        if self.is_private and given != wanted:
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="git"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        path, _, query = handler.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            **_GIT_ENV,
            "GIT_PROJECT_ROOT": str(root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": handler.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": "" if self.is_old else handler.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [line.partition(": ")[::2] for line in head.decode().split("\r\n")]
        status = next((value for name, value in headers if name == "Status"), "200 OK")
        handler.send_response(int(status.split()[0]))
        for name, value in headers:
            if name not in ("Status", "Content-Length"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


class SshHost:
    """A real sshd for the user who runs the tests, with one key that may log in."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:" + os.environ["PATH"])
        if program is None or shutil.which("ssh-keygen") is None:
            pytest.skip("there is no sshd on this machine")
        folder.mkdir(mode=0o700)
        self.key = self._keygen(folder / "user")
        self.other_key = self._keygen(folder / "other")
        self._keygen(folder / "host")
        authorized = folder / "authorized_keys"
        authorized.write_text((folder / "user.pub").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        kind, host_key = (folder / "host.pub").read_text().split()[:2]
        self.known_hosts = f"[127.0.0.1]:{self.port} {kind} {host_key}\n".encode()
        kind, other = (folder / "other.pub").read_text().split()[:2]
        self.wrong_hosts = f"[127.0.0.1]:{self.port} {kind} {other}\n".encode()
        config = folder / "config"
        config.write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {authorized}\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
            "PermitRootLogin prohibit-password\n"
        )
        if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
            pytest.skip("sshd's own folder, /run/sshd, is not there: its service makes it")
        self._log = (folder / "log").open("wb")
        self._sshd = subprocess.Popen(
            [program, "-D", "-e", "-f", str(config)], stderr=self._log, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert self._sshd.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "sshd did not come"
                time.sleep(0.02)

    def url(self, repository: Repository) -> str:
        import pwd

        return f"ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1:{self.port}{repository.bare}"

    def close(self) -> None:
        self._sshd.terminate()
        self._sshd.wait()
        self._log.close()

    @staticmethod
    def _keygen(path: Path) -> bytes:
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        return path.read_bytes()
