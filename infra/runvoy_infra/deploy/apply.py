"""`infra apply`: from the bundle to a stack that stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from runvoy_infra import bundle_files
from runvoy_infra.bundle_files import Bundle
from runvoy_infra.deploy import changes, holding, service_role
from runvoy_infra.deploy.artifacts import Artifacts
from runvoy_infra.deploy.aws import Aws
from runvoy_infra.deploy.changes import ChangeSet
from runvoy_infra.deploy.stacks import IN_REVIEW, Event, Stack, StackState
from runvoy_protocol.errors import ErrorCode, RunvoyError

CODE_BUCKET = "CodeBucket"
CODE_KEY = "CodeKey"
ARCHITECTURE = "Architecture"
RUNNER_IMAGE = "RunnerImage"
TABLE_PROTECTION = "TableDeletionProtection"


class Talk(NamedTuple):
    """The person at the other end: `say` a line, `ask` whether to go on."""

    say: Callable[[str], None]
    ask: Callable[[str], bool]


class Applied(NamedTuple):
    """`changed` is how many resources; 0 where the stack was as it should be. `declined`: nothing was done."""

    state: StackState | None
    changed: int
    declined: bool = False


def apply(aws: Aws, stack: Stack, bundle: Bundle, given: Mapping[str, str], talk: Talk) -> Applied:
    """Upload, work out the changes, show them, and apply them if the person agrees.

    Raises RunvoyError with the reason of the resource that failed if CloudFormation rolls back.
    """
    before = _before(stack)
    if before is None and given.get(TABLE_PROTECTION) == "on":
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"{TABLE_PROTECTION} is for a stack that stands: one that does not come up could not be rolled back",
            "Apply without it first, then with it.",
        )
    runner = runner_image(bundle, given, before)
    if "@sha256:" not in runner:
        talk.say(
            f"the runner's image {runner} is named by a tag, and what a tag names can change: pin it, see docs/aws.md"
        )
    chosen, template_url = _upload(aws, bundle, given, before, talk)
    change_set = changes.create(stack, template_url, chosen, before)
    # What a change of the template does not bring back: CloudFormation compares templates.
    unread = holding.unread(aws, stack.resources(), talk.say) if before is not None else []
    shown_changes = [str(change) for change in change_set.changes or ()] + [
        f"~ {holding.MAPPING} {one.resource}  (its queue is not read, by a `destroy` that was cut off or by hand)"
        for one in unread
    ]
    if not shown_changes:
        talk.say("nothing to change")
        return Applied(stack.existing(), 0)
    for line in shown_changes:
        talk.say(f"  {line}")
    count = len(shown_changes)
    agreed = False
    try:
        agreed = talk.ask(f"Apply {count} change{'s' if count != 1 else ''} to the stack {stack.name} in {aws.region}?")
    finally:
        if not agreed and change_set.changes is not None:  # nobody to ask and Ctrl-C included
            changes.discard(stack, change_set)
    if not agreed:
        return Applied(before, 0, declined=True)
    if change_set.is_new_stack and (done := service_role.ensure(aws)):
        talk.say(done)
    state = stack.existing() if change_set.changes is None else _execute(stack, change_set, talk)
    if unread:
        holding.read_again(aws, unread, stack.pause_seconds)
        talk.say("starts go on; if a `destroy` came further, images must be registered and secrets created again")
    return Applied(state, count)


def runner_image(bundle: Bundle, given: Mapping[str, str], before: StackState | None) -> str:
    """What the parameter will be: as given, as it is, or as the template has it."""
    kept = before.parameters if before is not None else {}
    default = bundle_files.parameters_of(bundle.template).get(RUNNER_IMAGE, {}).get("Default", "")
    return given.get(RUNNER_IMAGE) or kept.get(RUNNER_IMAGE) or str(default)


def _before(stack: Stack) -> StackState | None:
    """The stack to update, or None for a new one; a RunvoyError where it can be neither."""
    state = stack.state()
    if state is None or state.status == IN_REVIEW:
        return None
    stack.check_is_at_rest(state)
    if state.status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"):
        raise RunvoyError(
            ErrorCode.CONFLICT,
            f"the stack {stack.name} never came up ({state.status}): {'; '.join(stack.reasons(state))}",
            "Mend the cause, remove the remains with `runvoy infra destroy`, and apply again.",
        )
    if state.status in ("UPDATE_ROLLBACK_FAILED", "DELETE_FAILED", "UPDATE_FAILED"):
        raise RunvoyError(
            ErrorCode.CONFLICT,
            f"the stack {stack.name} is stuck ({state.status}): {'; '.join(stack.reasons(state))}",
            f"Mend the cause; then `aws cloudformation continue-update-rollback --stack-name {stack.name}`, or destroy it.",
        )
    return state


def _upload(
    aws: Aws, bundle: Bundle, given: Mapping[str, str], before: StackState | None, talk: Talk
) -> tuple[list[dict[str, object]], str]:
    """Template and code in the artifacts bucket; the parameters and the template's URL."""
    named = given.get(CODE_BUCKET) or (before.parameters.get(CODE_BUCKET) if before is not None else None)
    account = aws.account()
    own = Artifacts(aws, account).bucket
    artifacts = Artifacts(aws, account, None if named == own else named)
    values = {ARCHITECTURE: bundle.architecture, **given, CODE_BUCKET: artifacts.bucket}
    if values[ARCHITECTURE] != bundle.architecture:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"this installation's code is built for {bundle.architecture}, not for {values[ARCHITECTURE]}",
            f"Leave {ARCHITECTURE} out, or build a bundle for it: `just bundle --architecture {values[ARCHITECTURE]}`.",
        )
    chosen = changes.parameters(bundle.template, {**values, CODE_KEY: "-"}, before)  # what is wrong is said first
    if artifacts.prepare():
        talk.say(f"made the artifacts bucket {artifacts.bucket}")
    if CODE_KEY not in given:
        values[CODE_KEY], is_new = artifacts.upload("functions", ".zip", bundle.code, "application/zip")
        talk.say(f"{'uploaded' if is_new else 'has already'} the functions' code, {len(bundle.code):,} bytes")
    template_key, _ = artifacts.upload("templates", ".json", bundle.template.encode(), "application/json")
    chosen = changes.parameters(bundle.template, values, before)
    return chosen, artifacts.url(template_key)


def _execute(stack: Stack, change_set: ChangeSet, talk: Talk) -> StackState:
    since = stack.last_event(change_set.stack_id)
    changes.execute(stack, change_set)
    try:
        state = stack.follow(change_set.stack_id, since, lambda event: talk.say(f"  {shown(event)}"))
    except KeyboardInterrupt:
        talk.say("CloudFormation goes on without us: `runvoy infra status` shows where it is")
        raise
    if not state.is_good:
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            f"the stack {stack.name} could not be brought up, and was rolled back ({state.status}):\n"
            + "\n".join(stack.reasons(state)),
            "Mend what the reasons name and apply again; a stack that never came up is first removed with `runvoy infra destroy`.",
        )
    return state


def shown(event: Event) -> str:
    text = f"{event.at.astimezone():%H:%M:%S} {event.status:<28} {event.kind} {event.resource}"
    return f"{text}: {event.reason}" if event.reason else text
