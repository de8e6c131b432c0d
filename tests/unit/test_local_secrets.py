"""FolderSecrets beyond the contract: what lies on the disk, and what a damaged folder gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runvoy_agent.local.secrets import FolderSecrets
from runvoy_agent.ports import Unavailable


def test_nothing_readable_lies_on_the_disk(tmp_path: Path) -> None:
    secrets = FolderSecrets(tmp_path / "s")
    secrets.put("PRODUCTION_TOKEN", b"hunter2-hunter2")
    for path in (tmp_path / "s").rglob("*"):
        assert "PRODUCTION" not in path.name
        assert path.stat().st_mode & 0o077 == 0
        if path.is_file():
            assert b"PRODUCTION" not in path.read_bytes()
            assert b"hunter2" not in path.read_bytes()
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert FolderSecrets(tmp_path / "s").get("PRODUCTION_TOKEN") == b"hunter2-hunter2"


def test_swapped_and_damaged_files_are_found_out(tmp_path: Path) -> None:
    secrets = FolderSecrets(tmp_path)
    secrets.put("a", b"1")
    (first,) = tmp_path.glob("*.secret")
    secrets.put("b", b"2")
    (second,) = set(tmp_path.glob("*.secret")) - {first}
    second.write_bytes(first.read_bytes())
    with pytest.raises(Unavailable, match="another secret's"):
        secrets.get("b")
    whole = first.read_bytes()
    for damaged in (b"", b"short", whole[:-1] + bytes([whole[-1] ^ 1])):
        second.write_bytes(damaged)
        with pytest.raises(Unavailable, match="damaged"):
            secrets.get("b")
    assert secrets.get("a") == b"1"


def test_a_lost_key_is_not_made_anew(tmp_path: Path) -> None:
    FolderSecrets(tmp_path).put("a", b"1")
    key = tmp_path / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    whole = key.read_bytes()
    key.unlink()
    for call in (lambda: FolderSecrets(tmp_path).get("a"), lambda: FolderSecrets(tmp_path).put("b", b"")):
        with pytest.raises(Unavailable, match="gone"):
            call()
    key.write_bytes(whole[:-1])
    with pytest.raises(Unavailable, match="31 bytes"):
        FolderSecrets(tmp_path).get("a")
    key.write_bytes(whole)
    assert FolderSecrets(tmp_path).get("a") == b"1"


PUT = """
import sys
from pathlib import Path
from runvoy_agent.local.secrets import FolderSecrets
FolderSecrets(Path(sys.argv[1])).put(sys.argv[2], sys.argv[2].encode())
"""


def test_processes_agree_on_the_key(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(6)]
    processes = [subprocess.Popen([sys.executable, "-c", PUT, str(tmp_path / "s"), name]) for name in names]
    assert [process.wait(60) for process in processes] == [0] * 6
    assert [FolderSecrets(tmp_path / "s").get(name) for name in names] == [name.encode() for name in names]
