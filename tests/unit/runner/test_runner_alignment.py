"""What a playbook announces stands between what was printed before it and after it, however late the pipes are read."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from runvoy_agent.runner.alignment import _MOST_HELD_BYTES, Aligned

NewRun = Callable[[], Any]
MARK = b"[runvoy:0011]"
SCRIPT = """# playbook x
mark=${RUNVOY_MARK-}; unset RUNVOY_MARK
kill -STOP $PPID
for step in 1 2 3; do
    printf '%s' "$mark"; printf '%s%s\\n' "$mark" "step $step" >&2
    echo "printed $step"; env | grep -c RUNVOY_MARK
done
kill -CONT $PPID
"""


def test_steps_and_their_output_keep_their_order(new_run: NewRun) -> None:
    """While the runner is stopped both pipes get everything."""
    run = new_run().start(SCRIPT)
    assert run.wait()["exit_code"] == 0
    text = b"".join(record.data for record in run.records()).decode()
    assert text.split("\n")[:-1] == [word for step in (1, 2, 3) for word in (f"step {step}", f"printed {step}", "0")]


def test_a_command_that_marks_nothing_is_given_no_mark(new_run: NewRun) -> None:
    run = new_run().start("# playbook x\nenv")
    run.wait()
    assert b"RUNVOY_MARK" not in run.output()


class Taken:
    """What a listener was handed, as one text with the streams' names where they change."""

    due = None

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes]] = []

    def feed(self, stream: str, data: bytes) -> None:
        if self.parts and self.parts[-1][0] == stream:
            self.parts[-1] = (stream, self.parts[-1][1] + data)
        elif data:
            self.parts.append((stream, data))

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def tick(self, now: float) -> None:
        raise AssertionError(now)


@pytest.mark.parametrize("seed", range(200))
def test_however_it_is_cut_and_whichever_is_read_first_the_steps_are_in_order(seed: int) -> None:
    chance = random.Random(seed)
    steps = [(b"step %d\n" % number, b"printed %d [runvoy\n" % number) for number in range(1, 6)]
    left = {
        "err": b"".join(MARK + announced for announced, _ in steps),
        "out": b"before\n" + b"".join(MARK + printed for _, printed in steps),
    }
    taken = Taken()
    aligned = Aligned(taken, MARK)
    while left:
        stream = chance.choice(list(left))
        size = chance.randint(1, 30)
        data, left[stream] = left[stream][:size], left[stream][size:]
        aligned.feed(stream, data)
        if not data:
            del left[stream]
    expected = [("out", b"before\n")]
    for announced, printed in steps:
        expected += [("err", announced), ("out", printed)]
    assert taken.parts == expected


def test_a_mark_on_one_stream_alone_loses_nothing_and_holds_little() -> None:
    taken = Taken()
    aligned = Aligned(taken, MARK)
    aligned.feed("out", MARK + b"x")
    assert taken.parts == []
    aligned.feed("out", b"y" * _MOST_HELD_BYTES)
    assert sum(len(data) for _, data in taken.parts) > _MOST_HELD_BYTES - len(MARK)
    aligned.feed("out", b"z")
    aligned.feed("err", b"")
    aligned.feed("out", b"")
    assert taken.parts == [("out", b"x" + b"y" * _MOST_HELD_BYTES + b"z")]


def test_a_stream_that_ends_is_not_waited_for() -> None:
    taken = Taken()
    aligned = Aligned(taken, MARK)
    aligned.feed("err", b"")
    aligned.feed("out", MARK + b"printed" + MARK[:4])
    aligned.feed("out", b"")
    assert taken.parts == [("out", b"printed" + MARK[:4])]


class Flushed(Taken):
    def feed(self, stream: str, data: bytes) -> None:
        self.parts.append((stream, data))


def test_the_end_of_a_stream_is_told_behind_what_was_held_of_it() -> None:
    """Or a secret that is cut there would be shown in two halves, of which neither is one."""
    taken = Flushed()
    aligned = Aligned(taken, MARK)
    aligned.feed("out", b"hun" + MARK + b"ter2")
    aligned.feed("out", b"")
    assert taken.parts == [("out", b"hun")]
    aligned.feed("err", MARK + b"step 1\n")
    assert taken.parts[1:] == [("err", b"step 1\n"), ("out", b"ter2"), ("out", b"")]
