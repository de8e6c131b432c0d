"""Requests that are committed to Git, by a daemon whose submission a test scripts."""

import subprocess
import time
from typing import Any

import pytest
from tests.unit.sync_cases import NOW

from runvoy_cli.deployment.session import Session
from runvoy_cli.deployment.target import Target
from runvoy_cli.input.options import Settings
from runvoy_cli.terminal.render import Console
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_sync.commits import Commits
from runvoy_sync.tell import Teller
from runvoy_sync.tree import Tree


class Client:
    target = Target("http://h", "here", SigningKey(bytes(32)))

    def sibling(self):
        return self


class Broken:
    """A submission with a fault that nobody foresaw."""

    def begin(self, *_args, **_options):
        raise ZeroDivisionError("a fault")


def git(folder, *words):
    subprocess.run(
        ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True
    )


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.yml").write_text("command: x\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "a request")
    return tmp_path


def test_a_fault_is_told_and_does_not_end_the_thread(checkout):
    """`--once` would wait for ever for what nobody submits any more."""
    console = Console(Settings())
    tree = Tree(checkout)
    client: Any = Client()
    submission: Any = Broken()
    session = Session(client, console, 600, is_embedded=False)
    commits = Commits(tree, session, submission, Teller(console, lambda: NOW), lambda *_: None, 1)
    commits.prepare()
    assert commits.tracked == {"a.yml"}
    commits.start()
    limit = time.monotonic() + 60
    while commits.trouble is None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert commits.trouble.code is ErrorCode.INTERNAL
    assert "a fault" in commits.trouble.message
    assert commits.is_alive()
    assert not commits.is_clear.is_set()
    commits.stop()
    commits.join(60)
    assert not commits.is_alive()
    tree.close()
