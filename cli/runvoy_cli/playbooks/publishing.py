"""The playbooks that a user's browsers offer: compiled here, kept by the deployment (ADR 16).

What is published is one set by name. From where a client stands it answers for the folders that it looks at there, and for no
others: what was published from elsewhere stays, unless it has a name that is found here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from runvoy_cli.deployment.client import Client
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks import compiling, finding
from runvoy_cli.playbooks.finding import Found
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.playbooks import (
    MAX_SOURCE_LENGTH,
    CompiledPlaybook,
    PlaybooksAnswer,
    PublishedPlaybook,
    PublishPlaybooks,
    check,
)

_TRIES = 3

Becomes = Literal["added", "changed", "removed", "unchanged"]


class NotRight(NamedTuple):
    """A file that should be a playbook, and why it is none."""

    found: Found
    problem: UsageProblem


class Compiled(NamedTuple):
    """The playbooks that there are here, by name; `sources` are the folders that were looked at."""

    by_name: Mapping[str, CompiledPlaybook]
    not_right: Sequence[NotRight]
    sources: frozenset[str]


class Change(NamedTuple):
    """One playbook and what became of it."""

    published: PublishedPlaybook
    becomes: Becomes


def compile_here() -> Compiled:
    """Every playbook that is found from the working directory on; files that are not right are told of, and left out."""
    by_name: dict[str, CompiledPlaybook] = {}
    not_right = []
    for found in finding.find_all():
        try:
            by_name[found.name] = compile_one(found)
        except UsageProblem as problem:
            not_right.append(NotRight(found, problem))
    return Compiled(by_name, not_right, frozenset(map(_source, finding.places())))


def compile_one(found: Found) -> CompiledPlaybook:
    """BadPlaybook, or UsageProblem if the file cannot be read or leaves something but its parameters to the caller."""
    playbook = found.load()
    compiling.check_is_whole(playbook, "a page could not run it")
    return compiling.compiled(playbook, _source(found.path.parent))


def _source(folder: Path) -> str:
    """host:folder, for people, and to know the same place again. Of a long one the end counts."""
    import socket

    shown = folder.parent if folder.name == finding.PROJECT_FOLDER else folder
    try:
        text = f"~/{shown.relative_to(Path.home())}".removesuffix("/.")
    except (ValueError, RuntimeError):
        text = str(shown)
    host = socket.gethostname()[:100]
    room = MAX_SOURCE_LENGTH - len(host) - 1
    text = text if len(text) <= room else f"…{text[1 - room :]}"
    return "".join(one if one.isprintable() else "?" for one in f"{host}:{text}")


def published(client: Client) -> PlaybooksAnswer:
    """What the caller has published."""
    return client.ask(PlaybooksAnswer, "GET", "/playbooks")


def found_here(here: Compiled) -> Callable[[PlaybooksAnswer], list[CompiledPlaybook]]:
    """What is here takes the place of what came from here before."""

    def decide(before: PlaybooksAnswer) -> list[CompiledPlaybook]:
        others = [one for one in _compiled(before) if one.source not in here.sources and one.name not in here.by_name]
        return [*others, *here.by_name.values()]

    return decide


def besides(chosen: Iterable[CompiledPlaybook]) -> Callable[[PlaybooksAnswer], list[CompiledPlaybook]]:
    """These, and all that is published under other names."""
    by_name = {one.name: one for one in chosen}

    def decide(before: PlaybooksAnswer) -> list[CompiledPlaybook]:
        return [*(one for one in _compiled(before) if one.name not in by_name), *by_name.values()]

    return decide


def alone(chosen: Iterable[CompiledPlaybook]) -> Callable[[PlaybooksAnswer], list[CompiledPlaybook]]:
    """These and no others."""
    exactly = list(chosen)
    return lambda _before: exactly


def without(names: Sequence[str]) -> Callable[[PlaybooksAnswer], list[CompiledPlaybook]]:
    """All but these; all of them, if none is named. UsageProblem for a name that is not published."""

    def decide(before: PlaybooksAnswer) -> list[CompiledPlaybook]:
        known = [one.name for one in _compiled(before)]
        missing = [name for name in names if name not in known]
        if missing:
            raise UsageProblem(
                f"there is no published playbook {missing[0][:100]!r}", f"Published: {', '.join(known) or 'none'}."
            )
        return [one for one in _compiled(before) if names and one.name not in names]

    return decide


def publish(client: Client, decide: Callable[[PlaybooksAnswer], list[CompiledPlaybook]]) -> list[Change]:
    """Make what is published what `decide` makes of what is; what became of each, by name. Nothing is sent where nothing
    changes. Somebody else's change meanwhile is looked at, and the decision made anew."""
    for tries in range(1, _TRIES + 1):
        before = published(client)
        wanted = decide(before)
        if {one.name: one for one in _compiled(before)} == {one.name: _plain(one) for one in wanted}:
            return _changes(before, before)
        check(wanted)  # a body that is larger than any call's would be refused without a word of playbooks
        body = msgspec.json.encode(PublishPlaybooks(playbooks=tuple(wanted), version=before.version))
        try:
            return _changes(before, client.ask(PlaybooksAnswer, "PUT", "/playbooks", body))
        except RunvoyError as error:
            if error.code is not ErrorCode.CONFLICT or tries == _TRIES:
                raise
    raise AssertionError("the last try returns or raises")


def _compiled(answer: PlaybooksAnswer) -> list[CompiledPlaybook]:
    return [one.playbook for one in answer.playbooks]


def _plain(playbook: CompiledPlaybook) -> CompiledPlaybook:
    """As it comes back from the deployment: the client's own kinds of its parts are gone."""
    return msgspec.json.decode(msgspec.json.encode(playbook), type=CompiledPlaybook)


def _changes(before: PlaybooksAnswer, after: PlaybooksAnswer) -> list[Change]:
    old = {one.playbook.name: one for one in before.playbooks}
    new = {one.playbook.name: one for one in after.playbooks}
    return [Change(new.get(name) or old[name], _becomes(old.get(name), new.get(name))) for name in sorted({*old, *new})]


def _becomes(old: PublishedPlaybook | None, new: PublishedPlaybook | None) -> Becomes:
    if new is None:
        return "removed"
    return "added" if old is None else "unchanged" if old == new else "changed"
