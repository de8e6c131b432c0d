"""Admission: from a verified request to an accepted execution or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from runvoy_agent.core import access, cost, images, locks, quotas, secrets
from runvoy_agent.core.images import Choice, Registered
from runvoy_agent.core.limits import check_limits
from runvoy_agent.core.model import (
    DefaultQuotas,
    Execution,
    ExecutionLock,
    Isolation,
    Key,
    LockRecord,
    Refusal,
    Secret,
    User,
)
from runvoy_protocol import git_sources, requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import GitSource, RunRequest
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import GitStatus

COMMAND_SHOWN_CHARACTERS = 4096


class Capabilities(NamedTuple):
    """What a deployment can do with a request."""

    default_isolation: Isolation  # of requests without an image
    isolations: frozenset[Isolation]
    no_containers: str = ""  # why there are none
    any_image: bool = False  # whoever may manage images may run unregistered ones as well
    task_roles: frozenset[str] = frozenset()  # ARNs of those that an image can have
    fargate_sizes: bool = False  # cpu and memory of a run must be such as Fargate has


class Facts(NamedTuple):
    """What admission must know beside the request: all loaded before, all checked in the commit after."""

    deployment_id: str
    capabilities: Capabilities
    now: datetime
    object_sha256: str  # of the object that the request came in
    key: Key | None
    user: User | None
    existing: Execution | None  # the one that has the request's id already
    locks: locks.Locks  # those that the request names, empty ones included
    images: Registered = Registered()  # those that it may mean
    secrets: Mapping[
        str, Secret
    ] = {}  # those that it names; if one is not there, its user's others as well, for a hint
    bulk: bool = False  # it came in a batch
    pricing: cost.Pricing = cost.OWN_MACHINE
    batch_id: str | None = None
    object_version: str = ""
    unfinished: int = 0  # how many executions the user has that are not over
    unfinished_version: int = 0  # of that number's record, as it was read
    default_quotas: DefaultQuotas | None = None
    has_remains: bool = False  # an execution of this id was forgotten, and objects of it are still there


class Accepted(NamedTuple):
    """A new execution, with the locks whose queues it joined. It is one more of at most `max_unfinished` of its owner's."""

    execution: Execution
    locks: dict[str, LockRecord]
    max_unfinished: int


class Known(NamedTuple):
    """The request was accepted before: the same key, id and content."""

    execution: Execution


Decision = Accepted | Known | Refusal


def admit(request: RunRequest, key_id: str, facts: Facts) -> Decision:
    """Decide on a request whose signature by `key_id` was verified.

    The id is looked up before freshness is judged: a late repetition of an accepted request gets the first answer.
    """
    try:
        return _admit(request, key_id, facts)
    except RunvoyError as error:
        return refusal(key_id, request.request_id, facts.object_sha256, facts.now, error)


def refusal(key_id: str, request_id: str, object_sha256: str, at: datetime, error: RunvoyError) -> Refusal:
    """The record of a refusal."""
    return Refusal(
        key_id=key_id,
        request_id=request_id,
        object_sha256=object_sha256,
        at=at,
        code=error.code,
        message=error.message,
        hint=error.hint,
    )


def _admit(request: RunRequest, key_id: str, facts: Facts) -> Accepted | Known:
    digest = requests.content_digest(request).hex()
    if facts.existing is not None:
        return _known(facts.existing, key_id, digest)
    member = access.check_key(facts.key, facts.user, facts.now)
    if request.deployment_id != facts.deployment_id:
        raise RunvoyError(
            ErrorCode.WRONG_DEPLOYMENT,
            f"the request is for deployment {request.deployment_id!r}; this is {facts.deployment_id!r}",
        )
    _check_fresh(request, facts.now)
    access.check_allowed(member, access.Action.RUN)
    if facts.has_remains:
        # They would be its own: a log that somebody else may read, and a result that its runner's key proves.
        raise RunvoyError(
            ErrorCode.ID_CONFLICT,
            f"the id {request.request_id} was used before, by an execution that is forgotten but for what it left",
            "Use another one: an id is free again when nothing is kept of its execution any more.",
        )
    may_use_any = facts.capabilities.any_image and member.may(access.Action.MANAGE_IMAGES)
    limits = member.key.limits
    try:
        choice = images.choose(request, facts.images, may_use_any=may_use_any)
    except RunvoyError:
        # What a limited key may not use at all is refused as that, and not with the names of images that there are.
        check_limits(limits, request, request.image)
        raise
    check_limits(limits, request, choice.name if choice is not None else None)
    # What counts is how they are at the start; this tells the caller early.
    repo = None if request.git is None else request.git.repo
    secrets.fix(secrets.select(request.secrets, member.user, facts.secrets), request.env, repo)
    execution = _execution(request, key_id, member.user, digest, choice, facts)
    limit = quotas.unfinished_limit(member.user, facts.default_quotas)
    quotas.check_unfinished(member.user, facts.unfinished, limit)
    return _join(request, execution, facts.locks, limit)


def _known(existing: Execution, key_id: str, digest: str) -> Known:
    if existing.key_id == key_id and existing.content_digest == digest:
        return Known(existing)
    # Says nothing of the other's owner or content: the caller may not be allowed to see it.
    what = "other content" if existing.key_id == key_id else "another key"
    raise RunvoyError(
        ErrorCode.ID_CONFLICT,
        f"the id {existing.execution_id} was used before with {what}; that execution is untouched",
    )


def _check_fresh(request: RunRequest, now: datetime) -> None:
    if request.issued_at > now + requests.MAX_CLOCK_SKEW:
        ahead = (request.issued_at - now).total_seconds()
        raise RunvoyError(
            ErrorCode.CLOCK_SKEW,
            f"the request was issued {ahead:.0f} s in the future; the server's time is {now.isoformat()}",
            details={"server_time": now.isoformat()},
        )
    if request.expires_at <= now:
        raise RunvoyError(
            ErrorCode.REQUEST_EXPIRED,
            f"the request expired at {request.expires_at.isoformat()}; the server's time is {now.isoformat()}",
            details={"server_time": now.isoformat()},
        )


def _execution(
    request: RunRequest, key_id: str, user: User, digest: str, choice: Choice | None, facts: Facts
) -> Execution:
    isolation = resolve_isolation(request, facts.capabilities, choice is not None)
    image = choice.image if choice is not None else None
    on_fargate = facts.capabilities.fargate_sizes and isolation == "container"
    cpu, memory_mib = images.size_of_run(request, image, on_fargate=on_fargate)
    if image is not None:
        images.check_task_role(image.task_role, facts.capabilities.task_roles)
    return Execution(
        execution_id=request.request_id,
        state=State.QUEUED,
        owner=user.name,
        key_id=key_id,
        content_digest=digest,
        object_sha256=facts.object_sha256,
        command=shown_command(request.command),
        isolation=isolation,
        timeout_seconds=request.timeout_seconds,
        queue_timeout_seconds=request.queue_timeout_seconds,
        issued_at=request.issued_at,
        admitted_at=facts.now,
        updated_at=facts.now,
        granted=False,
        locks=tuple(ExecutionLock(name) for name in request.locks),
        name=request.name,
        image=choice.reference if choice is not None else None,
        image_name=image.name if image is not None else None,
        cpu=cpu,
        memory_mib=memory_mib,
        platform=image.platform if image is not None else None,
        task_role=image.task_role if image is not None else None,
        labels=request.labels,
        secrets=request.secrets,
        bulk=facts.bulk,
        git=_git_status(request.git),
        playbook=request.playbook,
        rate=cost.rate_of(facts.pricing, cpu, memory_mib, image.platform if image is not None else None),
        batch_id=facts.batch_id,
        object_version=facts.object_version,
        counted=True,
        counted_from=facts.unfinished_version,
    )


def wanted_isolation(request: RunRequest, capabilities: Capabilities, has_image: bool) -> Isolation:
    """What the request asks for, itself or by its image, or where it leaves that open, the deployment's default."""
    return request.isolation or ("container" if has_image else capabilities.default_isolation)


def resolve_isolation(request: RunRequest, capabilities: Capabilities, has_image: bool) -> Isolation:
    """How the command will be kept apart; an error for what this deployment cannot do, never a silent fallback. `has_image`:
    there is one for it, named or by default."""
    wanted = wanted_isolation(request, capabilities, has_image)
    if wanted not in capabilities.isolations:
        if wanted == "container":
            why = f": {capabilities.no_containers}" if capabilities.no_containers else ""
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"this deployment cannot run containers, which {_what_asks(request, has_image)}{why}",
                "Add `isolation: process` to run it on the machine itself instead, without the image."
                if "process" in capabilities.isolations
                else "",
            )
        raise RunvoyError(
            ErrorCode.FORBIDDEN, "this deployment runs commands in containers only", "Leave `isolation: process` out."
        )
    if wanted == "container" and not has_image:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            "a container needs an image, and none is registered as the default",
            "Name one as its `image`; see `runvoy images list`.",
        )
    if wanted == "container" and request.git is not None and git_sources.is_of_the_machine(request.git.repo):
        # The runner clones outside of the container, by the rights of the machine's user and with its loopback interface.
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            "a repository of the machine itself can be cloned for a host process only",
            "Give its https:// or SSH address, or on one machine `isolation: process`.",
        )
    return wanted


def _git_status(git: GitSource | None) -> GitStatus | None:
    return None if git is None else GitStatus(repo=git.repo, ref=git.ref, path=git.path)


def _what_asks(request: RunRequest, has_image: bool) -> str:
    if request.image is not None or request.isolation:
        return "its image asks for" if request.image is not None else "the request asks for"
    return "its default image asks for" if has_image else "every run here needs"


def shown_command(command: tuple[str, ...] | str) -> tuple[str, ...] | str:
    """The command for display: whole up to 4,096 characters, then shortened."""
    if isinstance(command, str):
        return command if len(command) <= COMMAND_SHOWN_CHARACTERS else command[:COMMAND_SHOWN_CHARACTERS] + "…"
    shown: list[str] = []
    left = COMMAND_SHOWN_CHARACTERS
    for word in command:
        if len(word) > left:
            return (*shown, word[:left] + "…")
        shown.append(word)
        left -= len(word) + 1
    return tuple(shown)


def _join(request: RunRequest, execution: Execution, named: locks.Locks, limit: int) -> Accepted:
    """The execution in the queues of all its locks: granted if it heads them, else waiting. LOCK_QUEUE_FULL or LOCK_HELD if it
    cannot wait, or does not want to."""
    full = locks.first_full(named)
    if full is not None:
        raise RunvoyError(
            ErrorCode.LOCK_QUEUE_FULL,
            f"the lock {full!r} has {locks.MAX_WAITERS:,} waiters, which is as many as it may have",
        )
    joined = locks.join(named, execution.execution_id)
    if locks.heads_all(joined, execution.execution_id):
        granted, started = locks.grant(joined, execution, execution.admitted_at)
        return Accepted(started, granted, limit)
    held = locks.first_held(joined, execution.execution_id)
    if held is not None and request.if_locked == "fail":
        raise RunvoyError(ErrorCode.LOCK_HELD, f"the lock {held.name!r} is held by execution {held.queue[0]}")
    return Accepted(msgspec.structs.replace(execution, reason=Reason.LOCK), joined, limit)
