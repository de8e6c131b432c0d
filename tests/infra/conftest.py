"""One synthesis, one MiniStackTls and one deployment on it for the whole session: everything here runs on one worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.servers import ministack_tls as servers
from tests.servers.ministack_tls import MiniStackTls

from runvoy_infra import bundle_files

if TYPE_CHECKING:
    from runvoy_infra.stack.app import Synthesized

RUNVOY = Path(sys.executable).parent / "runvoy"


HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("infra"))


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assembly")


@pytest.fixture(scope="session")
def synthesized(assembly: Path) -> Synthesized:
    """The template as the CDK app makes it now. Node and the CDK are in a group of their own, for they are large."""
    pytest.importorskip("aws_cdk", reason="the CDK is not installed: `uv sync --group infra`")
    from runvoy_infra.stack import app

    return app.synthesize(assembly)


class Template:
    """A template to ask questions of."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.resources: dict[str, dict[str, Any]] = document["Resources"]

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        return {name: one for name, one in self.resources.items() if one["Type"] == kind}

    def properties(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.resources[name]["Properties"]
        return found

    def named(self, prefix: str, kind: str) -> str:
        """The logical id of the one resource of a type whose id begins so; the CDK appends a hash to some."""
        (found,) = [name for name in self.of_type(kind) if name.startswith(prefix)]
        return found

    def statements(self, role_prefix: str) -> list[dict[str, Any]]:
        """All that the policies of a role allow."""
        role = self.named(role_prefix, "AWS::IAM::Role")
        found: list[dict[str, Any]] = []
        for policy in self.of_type("AWS::IAM::Policy").values():
            if {"Ref": role} in policy["Properties"]["Roles"]:
                found += policy["Properties"]["PolicyDocument"]["Statement"]
        return found


@pytest.fixture(scope="session")
def template(synthesized: Synthesized) -> Template:
    return Template(synthesized.template)


@pytest.fixture(scope="session")
def ministack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStackTls]:
    cache = Path(request.config.rootpath) / ".pytest_cache" / "servers"
    with servers.ministack_tls(cache, tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture(scope="session")
def bundle(synthesized: Synthesized, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, and stand-ins for the functions."""
    from runvoy_infra.stack import app

    folder = tmp_path_factory.mktemp("bundle")
    (folder / bundle_files.TEMPLATE).write_text(app.as_text(servers.as_it_takes_it(synthesized.template)))
    with zipfile.ZipFile(folder / bundle_files.CODE, "w") as archive:
        archive.writestr("runvoy_agent/__init__.py", "")
        archive.write(Path(__file__).parent / "standin.py", "runvoy_agent/wiring_aws.py")
    about = {"version": "0.1.0", "architecture": "x86_64", "python": "3.11"}
    (folder / bundle_files.MANIFEST).write_text(json.dumps(about))
    return folder


class Admin(NamedTuple):
    """Somebody at a shell, with AWS credentials and a RUNVOY_HOME of their own."""

    environment: dict[str, str]
    bundle: Path

    def __call__(self, *args: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run `runvoy infra …`."""
        where = ["--bundle", str(self.bundle)] if args[0] in ("apply", "template") else []
        command = [str(RUNVOY), "infra", args[0], *where, *args[1:]]
        environment = {**self.environment, **changed}
        return subprocess.run(
            command, check=False, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150
        )

    def ok(self, *args: str) -> str:
        done = self(*args)
        assert done.returncode == 0, done
        return done.stdout


def shell(aws: dict[str, str], home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **aws, "RUNVOY_HOME": str(home), "NO_COLOR": "1"}


@pytest.fixture
def admin(ministack: MiniStackTls, bundle: Path, tmp_path: Path) -> Admin:
    return Admin(shell(ministack.environment, tmp_path / "home"), bundle)


@pytest.fixture(scope="session")
def deployed(ministack: MiniStackTls, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The outputs of a stack `runvoy` that stands for all tests, and is not changed by any."""
    admin = Admin(shell(ministack.environment, tmp_path_factory.mktemp("deployer")), bundle)
    applied = json.loads(admin.ok("apply", "--yes", "--json"))
    outputs: dict[str, str] = applied["stack"]["outputs"]
    return outputs
