"""Where the folders of tests lie, in memory, nothing is left of runs that were killed."""

import os
import subprocess
from pathlib import Path

from tests.conftest import remove_folders_of_the_dead


def test_folders_of_killed_runs_go_and_all_others_stay(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    locks = {"pytest-0": f"{ended.pid}", "pytest-1": f"{os.getpid()}", "pytest-2": "", "pytest-3": None}
    for name, lock in locks.items():
        (tmp_path / name / "test_a0").mkdir(parents=True)
        if lock is not None:
            (tmp_path / name / ".lock").write_text(lock)
    (tmp_path / "pytest-current").symlink_to(tmp_path / "pytest-0")
    remove_folders_of_the_dead(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["pytest-1", "pytest-2", "pytest-3"]
    remove_folders_of_the_dead(tmp_path / "nowhere")
