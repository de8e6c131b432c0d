"""From a playbook to a run request: one constant shell text, and the parameters in variables.

The text is the same for every caller and every value, on every machine: a key can be limited to it (`pin_of`). So what a
parameter must be is checked in the text as well: the deployment knows the text by its digest, and nothing of types. Changing
what is made here changes digests and breaks every key that is limited to a playbook: see ADR 7.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks.model import Command, Parameter, Playbook
from runvoy_cli.playbooks.placeholders import pieces, quoted
from runvoy_protocol.members import PlaybookPin
from runvoy_protocol.playbooks import CompiledPlaybook, ParameterValue
from runvoy_protocol.playbooks import pin as pin_of
from runvoy_protocol.playbooks import to_request as to_run_request
from runvoy_protocol.requests import RunRequest

_MAX_TITLE = 160


def compiled(playbook: Playbook, source: str = "") -> CompiledPlaybook:
    """A playbook but for the values of its parameters.

    Nothing of the machine goes into what it runs: no default of its configuration, no RUNVOY_USER_ variable.
    """
    return CompiledPlaybook(
        name=playbook.name,
        command=shell_text(playbook),
        source=source,
        description=playbook.description,
        parameters=tuple(playbook.parameters.values()),
        image=playbook.image,
        env=playbook.fixed_env,
        secrets=playbook.secrets,
        locks=playbook.locks,
        timeout_seconds=playbook.timeout_seconds,
        cpu=playbook.cpu,
        memory_mib=playbook.memory_mib,
        git=playbook.git,
        labels={name: _parts(text) for name, text in playbook.labels.items()},
    )


def _parts(text: str) -> tuple[str | ParameterValue, ...]:
    found = [ParameterValue(parameter=one) if is_name else one for is_name, one in pieces(text)]
    return tuple(found)


def to_request(playbook: Playbook, values: Mapping[str, str]) -> RunRequest:
    """The request of a playbook with the values of its parameters (Playbook.values_of), but for deployment, id and times."""
    return to_run_request(compiled(playbook), values)


def pin(playbook: Playbook) -> PlaybookPin:
    """What limits a key to this playbook as it is now: its parameters stay the caller's choice. UsageProblem if it leaves the
    repository to the caller: the key could then run whatever code lies in one."""
    check_is_whole(playbook, "no key can be limited to that")
    return pin_of(compiled(playbook))


def check_is_whole(playbook: Playbook, otherwise: str) -> None:
    """UsageProblem, which says what follows, if the playbook leaves the repository to whoever runs it."""
    if not playbook.has_whole_request:
        raise UsageProblem(
            f"the playbook {playbook.name} leaves the repository to whoever runs it: {otherwise}",
            "Name the repository in the playbook: git_repo: URL.",
        )


def shell_text(playbook: Playbook) -> str:
    """What `/bin/sh -c` gets: the parameters' checks, then the commands, each in a shell of its own."""
    lines = [f"# playbook {playbook.name}"]
    if any(_needs_refusing(one) for one in playbook.parameters.values()):
        lines.append(f"refuse() {{ printf '%s\\n' \"playbook {playbook.name}: the parameter $1\" >&2; exit 2; }}")
    for parameter in playbook.parameters.values():
        lines += _parameter_lines(parameter)
    lines += [f"export {name}={word}" for name, word in playbook.exports.items()]
    # On both streams, before each announcement: the runner takes it away, and knows by it what was printed before.
    lines.append("runvoy_mark=${RUNVOY_MARK-}; unset RUNVOY_MARK")
    count = len(playbook.commands)
    for number, command in enumerate(playbook.commands, start=1):
        announcement = f"playbook {playbook.name}: {number} of {count}: {title(command)}"
        lines.append("printf '%s' \"$runvoy_mark\"")
        lines.append(f"printf '%s%s\\n' \"$runvoy_mark\" {quoted(announcement)} >&2")
        lines.append(f"/bin/sh -ec {quoted(command.shell)} || exit $?")
    return "\n".join(lines)


def title(command: Command) -> str:
    """The command in one line, as it was written."""
    whole = command.source if isinstance(command.source, str) else shlex.join(command.source)
    first, *more = whole.strip().splitlines() or [""]
    line = "".join(character if character.isprintable() else " " for character in first)
    return line if len(line) <= _MAX_TITLE and not more else line[:_MAX_TITLE] + " …"


def _needs_refusing(parameter: Parameter) -> bool:
    return parameter.required or bool(parameter.rule())


def _parameter_lines(parameter: Parameter) -> Iterator[str]:
    name = parameter.variable
    if parameter.required:
        yield f'[ -n "${{{name}+x}}" ] || refuse {quoted(f"{parameter.name} is missing")}'
    else:
        yield f'[ -n "${{{name}+x}}" ] || {name}={quoted(parameter.default or "")}'
    yield f"export {name}"
    refusal = f"refuse {quoted(f'{parameter.name} {parameter.rule()}')}"
    for check in _checks(parameter, refusal):
        yield f'[ -z "${name}" ] || {check}' if parameter.may_be_empty else check


def _checks(parameter: Parameter, refusal: str) -> Iterator[str]:
    """Lines that refuse a wrong value. Digits are spelled out: what a range like 0-9 holds depends on the locale."""
    name = parameter.variable
    if parameter.allowed is not None:
        yield f'case "${name}" in {"|".join(map(quoted, parameter.allowed))}) ;; *) {refusal} ;; esac'
    elif parameter.type == "int":
        yield f'case "${{{name}#-}}" in 0|[123456789]*) ;; *) {refusal} ;; esac'
        yield f'case "${{{name}#-}}" in *[!0123456789]*) {refusal} ;; esac'
        yield f'[ "${{#{name}}}" -le 19 ] || {refusal}'
    elif parameter.pattern is not None:
        yield f"case \"${name}\" in *'\n'*) {refusal} ;; esac"
        yield f"printf '%s\\n' \"${name}\" | LC_ALL=C grep -Eqx -e {quoted(parameter.pattern)} || {refusal}"
