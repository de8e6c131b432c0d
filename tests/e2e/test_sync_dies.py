"""kill -9 of `runvoy sync` at random moments, with requests coming in and commands printing: the tree ends whole.

`just sync-chaos 1000` kills it that often; the suite's quick form less.
"""

import json
import os
import random
import time

import pytest
from tests.e2e.kept_folder import SYNC_FILES, KeptFolder, stop

KILLS = int(os.environ.get("RUNVOY_TEST_SYNC_KILLS", "8"))
SEED = int(
    os.environ.get("RUNVOY_TEST_SEED", "20260513")
)  # fixed: the same checkout gives the same verdict, as far as it can
LINES = 30
HISTORY = 40  # executions


def check_log(folder, lines, streams=("out", "err")):
    """Every line of every stream once and whole, in both forms."""
    blocks = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for stream in streams:
        assert "".join(block["m"] for block in blocks if block["s"] == stream) == "".join(lines)
    text = (folder / "log.txt").read_text().splitlines(keepends=True)
    assert sorted(text) == sorted(lines * len(streams))


@pytest.mark.slow
@pytest.mark.timeout(120 + 6 * KILLS)
def test_it_can_be_killed_at_any_moment(machine, tmp_path, request):
    print(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    folder = KeptFolder(machine, tmp_path / "kept")
    request.addfinalizer(folder.end)
    marks = tmp_path / "marks"
    marks.mkdir()
    machine.ok("run", "true")
    dropped = 0
    for _ in range(KILLS):
        process = folder.daemon()
        for _ in range(chance.randrange(3)):
            command = (
                f"echo x >> {marks}/{dropped}; for i in $(seq {LINES}); do echo {dropped} $i;"
                f" echo {dropped} $i >&2; sleep 0.0{chance.randrange(9)}; done"
            )
            folder.drop(f"{dropped}.json", json.dumps({"command": command, "labels": {"n": str(dropped)}}))
            dropped += 1
        time.sleep(chance.uniform(0.2, 2.2))
        process.kill()
        process.communicate()
        for one in folder.path.glob("executions/*/*.json"):
            json.loads(one.read_text())
    process = folder.daemon()
    machine.wait_until(lambda: folder.is_kept_by(process))
    machine.wait_until(
        lambda: len(folder.done()) == dropped and len(folder.results()) == dropped + 1 and folder.is_idle()
    )
    assert stop(process) == 0
    folder.check_whole()
    assert [path.read_text() for path in sorted(marks.iterdir())] == ["x\n"] * dropped
    for number in range(dropped):
        check_log(folder.of(str(number)), [f"{number} {index}\n" for index in range(1, LINES + 1)])
        assert len(list(folder.path.glob(f"by-label/n/{number}/*"))) == 1


@pytest.mark.slow
@pytest.mark.timeout(300 + 6 * KILLS)
def test_it_can_be_killed_while_it_copies_a_history(machine, tmp_path, request):
    """What had ended is copied without looks at what is there. So whatever a kill leaves of that is told from what is whole."""
    print(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    lines = {str(n): [f"{n} {line}\n" for line in range(1, n * 100)] for n in range(1, HISTORY + 1)}
    requests = [
        {"command": f"seq {len(one)} | sed 's/^/{number} /'", "labels": {"h": number}} for number, one in lines.items()
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in requests))
    ids = machine.ok("submit", "--bulk", str(tmp_path / "history.jsonl")).split()
    machine.ok("wait", *ids)
    whole = 0
    for kill in range(KILLS + 1):
        folder = KeptFolder(machine, tmp_path / f"kept{whole}")
        request.addfinalizer(folder.end)
        process = folder.daemon("--once")
        if kill < KILLS:
            time.sleep(chance.uniform(0.1, 0.9))
            process.kill()
            process.communicate()
        else:
            assert process.wait(120) == 0
        found = list(folder.path.glob("executions/*/result.json"))
        for result in found:  # the mark that all of it is there
            assert {path.name for path in result.parent.iterdir()} == SYNC_FILES
            labels = json.loads((result.parent / "status.json").read_text())["labels"]
            check_log(result.parent, lines[labels["h"]], ["out"])
        whole += kill < KILLS and len(found) == HISTORY  # then the next one begins anew
    folder.check_whole()
    assert folder.ids() == sorted(ids)
