"""The servers as fixtures: one each for all tests that use it. Such tests carry its group, so that one worker has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.ministack import MiniStack
from tests.servers.ministack import ministack as run_ministack
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.seaweedfs import seaweedfs as run_seaweedfs

ON_SERVERS = pytest.mark.xdist_group("servers")


@pytest.fixture(scope="session")
def server_cache(request: pytest.FixtureRequest) -> Path:
    """Where the servers are installed: kept between test runs, and out of the checkout's files."""
    return Path(request.config.rootpath) / ".pytest_cache" / "servers"


@pytest.fixture(scope="session")
def ministack(server_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    with run_ministack(server_cache, tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(server_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFs]:
    with run_seaweedfs(server_cache, tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server
