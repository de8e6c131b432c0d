"""kill -9 of `runvoy sync` at random moments, with requests coming in and commands printing: the tree ends whole.

`just sync-chaos 1000` kills it that often; the suite's quick form less.
"""

import json
import os
import random
import time

import pytest
from tests.e2e.kept_folder import KeptFolder, stop

KILLS = int(os.environ.get("RUNVOY_TEST_SYNC_KILLS", "8"))
SEED = int(os.environ.get("RUNVOY_TEST_SEED", str(time.time_ns() % 1_000_000)))
LINES = 30


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
        lines = (folder.of(str(number)) / "log.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        for stream in ("out", "err"):
            texts = [line["text"] for line in found if line["s"] == stream]
            assert texts == [f"{number} {index}" for index in range(1, LINES + 1)]
        text = (folder.of(str(number)) / "log.txt").read_text()
        assert text == "".join(f"{line['text']}\n" for line in found)
        assert len(list(folder.path.glob(f"by-label/n/{number}/*"))) == 1
