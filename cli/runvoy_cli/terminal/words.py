"""What states, reasons, exit codes and locks are called when people are told of them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runvoy_cli.terminal.render import command_text, moment, ran_for, short_id, span
from runvoy_protocol.costs import Cost, Rate, dollars, so_far
from runvoy_protocol.exit_codes import EXIT_CODES_OF_RUNVOY
from runvoy_protocol.explanations import exit_meaning, explain, place
from runvoy_protocol.status import ExecutionStatus, Explanation, LockStatus, decided_by, exit_code_of

_MOST_CHARACTERS = 60


def code_text(status: ExecutionStatus) -> str:
    """An ended execution's exit code, with what it means where that is more than that it failed."""
    code, meaning = exit_code_of(status), exit_meaning(status)
    return str(code) if meaning in ("success", "failure") else f"{code} ({meaning})"


def explanation_of(status: ExecutionStatus) -> Explanation | None:
    """Why it waits or how it failed: the deployment's word, or our own where it is of a version that gives none."""
    return status.explanation or explain(status)


def summary(status: ExecutionStatus, now: datetime) -> str:
    """One line: what became of an execution."""
    duration = ran_for(status, now)
    text = f"{status.execution_id} {status.state.value}, exit code {code_text(status)}"
    said = f": {status.message}" if status.message and status.message not in text else ""
    return text + (f", {duration}" if duration else "") + said


def result_json(status: ExecutionStatus, exit_code: int | None = None) -> dict[str, object]:
    """What programs want to know of an execution that was waited for; `exit_code` if that was given up."""
    if exit_code is not None:
        verdict: dict[str, object] = {"exit_code": exit_code, "decided_by": "runvoy"}
        verdict["exit_meaning"] = EXIT_CODES_OF_RUNVOY[exit_code]
    else:
        verdict = {"exit_code": exit_code_of(status), "decided_by": decided_by(status)}
        verdict["exit_meaning"] = exit_meaning(status)
    return {
        "execution_id": status.execution_id,
        "state": status.state.value,
        **verdict,
        "explanation": explanation_of(status),
        "status": status,
    }


def status_json(status: ExecutionStatus) -> dict[str, object]:
    """The status as it is published and, once the execution has ended, the exit code that `wait` has for it."""
    found: dict[str, object] = msgspec.to_builtins(status)
    why = explanation_of(status)
    if why is not None:
        found["explanation"] = msgspec.to_builtins(why)
    if status.is_terminal:
        found["exit_code_of"] = exit_code_of(status)
        found["decided_by"] = decided_by(status)
        found["exit_meaning"] = exit_meaning(status)
    return found


_BASES = {"billed": "", "at_most": "at most ", "would_have_cost": "would have cost "}
_RATES = _BASES | {"would_have_cost": "on Fargate it would cost "}


def cost_text(cost: Cost | None, now: datetime) -> str:
    """What an execution costs, or, on one machine, would have cost; so far, while it goes on."""
    if cost is None:
        return ""
    rate = rate_text(cost.rate)
    current = so_far(cost, now)
    if current.nanodollars is None:
        return rate
    text = f"{_BASES[cost.rate.basis]}{dollars(current.nanodollars)}"
    counted = f"{current.billed_seconds} s" if current.billed_seconds else "nothing ran"
    text += f" for {counted}" if current.billed_seconds else f" ({counted})"
    return text + ("" if current.is_final or not current.billed_seconds else " so far") + f"; {rate}"


def rate_text(rate: Rate) -> str:
    """What an hour costs, and of what by which prices."""
    where = f"{rate.region}, {rate.architecture}, prices of {rate.prices_of}"
    if rate.nanodollars_per_hour is None:
        return f"unknown: no price for {where}"
    size = f"{cpu_text(rate.cpu)}, {memory_text(rate.memory_mib)}"
    return f"{_RATES[rate.basis]}{dollars(rate.nanodollars_per_hour)} an hour ({size}; {where})"


def cpu_text(units: int | None) -> str:
    return "" if units is None else f"{units / 1024:g} vCPU"


def memory_text(mib: int | None) -> str:
    if mib is None:
        return ""
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def size_rows(isolation: str, cpu: int | None, memory_mib: int | None) -> list[tuple[str, str]]:
    """The size of a run, and that nothing holds a process to it."""
    unheld = " (not limited: a process of the machine)" if isolation == "process" else ""
    sizes = (("cpu", cpu_text(cpu)), ("memory", memory_text(memory_mib)))
    return [(name, text + unheld if text else "") for name, text in sizes]


def what_ran(status: ExecutionStatus) -> str:
    """What an execution is known by in a line: its name, and its command as one would type it."""
    # What a playbook was made into is long, and nobody wrote it.
    text = f"playbook {status.playbook}" if status.playbook else command_text(status.command)
    return f"{status.name}: {text}" if status.name and status.name != status.playbook else text


def what_ran_in_short(status: ExecutionStatus) -> str:
    """The same in a few words of one line: a command may be a script of many, which are its owner's and not runvoy's."""
    return " ".join(what_ran(status).split())[:_MOST_CHARACTERS]


def image_text(status: ExecutionStatus) -> str:
    """The image of an execution, by the name it is registered as."""
    if status.image is None or status.image_name in (None, status.image):
        return status.image or ""
    return f"{status.image_name} ({status.image})"


def lock_text(lock: LockStatus, now: datetime) -> str:
    """How it stands with one lock of an execution."""
    if lock.fence is not None:
        return f"held, fence {lock.fence}"
    if lock.position is None:
        return ""
    if lock.position == 0:
        return "first in line, and waits for its other locks"
    if lock.holder is None:
        return place(lock.position)
    owner = f" ({lock.holder_owner})" if lock.holder_owner else ""
    if lock.held_since is None:
        return f"{place(lock.position)}; {lock.holder}{owner} is before it and waits too"
    duration = span((now - lock.held_since).total_seconds())
    return f"{place(lock.position)}, held by {lock.holder}{owner} for {duration}, since {moment(lock.held_since)}"


def short_lock_text(lock: LockStatus, now: datetime) -> str:
    """The same in a live row, of which a narrow terminal shows the beginning."""
    if lock.position is None or lock.position == 0 or lock.holder is None:
        return lock_text(lock, now)
    who = lock.holder_owner or "somebody"
    holds = (
        f"held by {who} for {span((now - lock.held_since).total_seconds())}" if lock.held_since else f"{who} waits too"
    )
    return f"{place(lock.position)}, {holds}, {short_id(lock.holder)}"
