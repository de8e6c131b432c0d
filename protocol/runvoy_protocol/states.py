"""The states of an execution and the one table of transitions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where an execution is in its life. QUEUED: admitted, and not launched. STARTING: its launch is fixed. TERMINATING: it was
    killed, and still runs. The last five (TERMINAL) are ends; UNKNOWN is one of which nobody can tell what the command did."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    TERMINATING = "TERMINATING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    TIMED_OUT = "TIMED_OUT"
    UNKNOWN = "UNKNOWN"


class Reason(StrEnum):
    """Why an execution ended, or waits, where the state alone does not say."""

    EXIT = "exit"  # the command exited by itself
    SIGNAL = "signal"  # a signal runvoy did not send ended the command
    EXEC_FAILED = "exec_failed"  # the command could not be executed (126, 127)
    DEADLINE = "deadline"  # its timeout passed
    QUEUE = "queue"  # its queue timeout passed before it was started
    START = "start"  # it was launched but did not begin in time
    KILLED = "killed"  # a user's wish
    REVOKED = "revoked"  # its key or user was revoked before it started
    LAUNCH_FAILED = "launch_failed"  # the platform would not run it
    SETUP_FAILED = "setup_failed"  # its working directory, checkout or environment could not be made
    LOST = "lost"  # its task vanished without a result
    LOCK = "lock"  # waits for a lock
    CAPACITY = "capacity"  # waits for room on the platform, or for a place of its owner's


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.STOPPED, State.TIMED_OUT, State.UNKNOWN})

# Events come early, late and twice, so every state that may have a task can go straight to any end. TERMINATING may end
# otherwise than STOPPED: the command can finish by itself before the kill reaches it.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.FAILED, State.STOPPED, State.TIMED_OUT}),
    State.STARTING: TERMINAL | {State.RUNNING, State.TERMINATING},
    State.RUNNING: TERMINAL | {State.TERMINATING},
    State.TERMINATING: TERMINAL,
} | {state: frozenset() for state in TERMINAL}


def can_follow(current: State, wanted: State) -> bool:
    """Whether the table allows the step. A terminal state never changes."""
    return wanted in TRANSITIONS[current]
