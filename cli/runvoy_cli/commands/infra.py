"""`runvoy infra`: a deployment in an AWS account, made and taken away with an admin's AWS credentials."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runvoy_cli.home import config
from runvoy_cli.home.files import told_about
from runvoy_cli.input.options import DEFAULT_TIMEOUT_SECONDS, Settings, Yes, new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.terminal.render import Console, facts, moment, print_json, print_line

if TYPE_CHECKING:
    from runvoy_infra.deploy.apply import Talk
    from runvoy_infra.deploy.aws import Aws
    from runvoy_infra.deploy.seeding import Seeded
    from runvoy_infra.deploy.stacks import Stack, StackState
    from runvoy_infra.deploy.status import Status

app = new_app()

StackName = Annotated[str, typer.Option(metavar="NAME", help="The stack's name; one stack is one deployment.")]
Region = Annotated[str | None, typer.Option(metavar="REGION", help="The AWS region; otherwise AWS's own settings.")]
BundleFolder = Annotated[
    Path | None,
    typer.Option(
        "--bundle", metavar="FOLDER", help="A bundle of `just bundle --output FOLDER`, not this installation's."
    ),
]
DEFAULT_STACK = "runvoy"
_NEW_ADDRESS_SECONDS = 30.0


@app.callback(epilog="Example: runvoy infra status")
def infra() -> None:
    """A deployment in an AWS account: make it, look at it, take it away.

    It uses your AWS credentials as the AWS CLI would (AWS_PROFILE, AWS_REGION, SSO), and needs `pip install 'runvoy[aws]'`.
    """


@app.command(epilog="Example: runvoy infra apply --configure --seed-admin-user ann@example.com")
def apply(
    context: typer.Context,
    stack_name: StackName = DEFAULT_STACK,
    region: Region = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A parameter of the template. Repeatable; what is not given stays."),
    ] = None,
    yes: Yes = False,
    configure: Annotated[
        bool, typer.Option("--configure", help="Have this machine use the deployment, as `runvoy configure` would.")
    ] = False,
    seed_admin_user: Annotated[
        str | None, typer.Option(metavar="EMAIL", help="See that this user is an admin, with a key or a claim token.")
    ] = None,
    bundle: BundleFolder = None,
) -> None:
    """Make the deployment, or bring it up to this version of runvoy and to the given parameters.

    Shows what would change and asks; then shows what CloudFormation does. Repeating it is safe: where nothing is to
    change, nothing is done.
    """
    settings: Settings = context.obj
    given = _parameters(parameter or [])
    if seed_admin_user is not None:
        from runvoy_protocol.members import check_user_name

        check_user_name(seed_admin_user)
    if configure and seed_admin_user is None:
        _check_has_key(settings)
    from runvoy_infra import bundle_files
    from runvoy_infra.deploy import apply as applying

    aws, stack = _open(region, stack_name)
    applied = applying.apply(aws, stack, bundle_files.load(bundle or bundle_files.FOLDER), given, _talk(settings, yes))
    if applied.declined or applied.state is None:
        _told(settings, {"applied": False, "changes": 0}, "nothing was done")
        raise typer.Exit(1)
    result = {"applied": True, "changes": applied.changed, "stack": _stack_facts(stack_name, applied.state)}
    if seed_admin_user is not None:
        result["admin"] = _seed(aws, applied.state, seed_admin_user, settings, configure)
    elif configure:
        _configure(applied.state, settings, None)
    _told(settings, result, f"endpoint       {applied.state.outputs['Endpoint']}")


@app.command(epilog="Example: runvoy infra status --drift")
def status(
    context: typer.Context,
    stack_name: StackName = DEFAULT_STACK,
    region: Region = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Look for what was changed by hand as well; takes a minute or two.")
    ] = False,
) -> None:
    """Show what stands: the stack's state, its outputs, alarms that ring. Exit 1 if the stack is not well, or starts nothing."""
    settings: Settings = context.obj
    aws, stack = _open(region, stack_name)
    from runvoy_infra.deploy import status as looking

    found = looking.look(aws, stack, Console(settings).say, with_drift=drift)
    if settings.json:
        print_json(_as_json(stack_name, found))
    else:
        for line in _as_lines(stack_name, found):
            print_line(line)
    if not found.state.is_good or found.unread:
        raise typer.Exit(1)


@app.command(epilog="Example: runvoy infra destroy --stack-name runvoy-test")
def destroy(
    context: typer.Context,
    stack_name: StackName = DEFAULT_STACK,
    region: Region = None,
    yes: Yes = False,
    stop_tasks: Annotated[
        bool, typer.Option("--stop-tasks", help="Also while commands run; they are stopped.")
    ] = False,
) -> None:
    """Take the deployment away. What is the audit is kept: the inbox, the outbox, the table; it is said by name."""
    settings: Settings = context.obj
    aws, stack = _open(region, stack_name)
    from runvoy_infra.deploy import destroy as destroying

    done = destroying.destroy(aws, stack, _talk(settings, yes), stop_tasks=stop_tasks)
    kept = [{"kind": kind, "name": name} for kind, name in done.plan.kept]
    if done.declined:
        _told(settings, {"destroyed": False, "kept": kept}, "nothing was done")
        raise typer.Exit(1)
    names = ", ".join(name for _, name in done.plan.kept)
    _told(settings, {"destroyed": True, "kept": kept}, f"destroyed {stack_name}; kept: {names or 'nothing'}")


@app.command(epilog="Example: runvoy infra template > runvoy.template.json")
def template(context: typer.Context, bundle: BundleFolder = None) -> None:
    """Print the CloudFormation template, to be read or applied by other means. JSON, with and without --json."""
    del context
    from runvoy_infra import bundle_files

    sys.stdout.write(bundle_files.load_template(bundle or bundle_files.FOLDER))


def _open(region: str | None, stack_name: str) -> tuple[Aws, Stack]:
    from runvoy_infra.deploy.aws import Aws
    from runvoy_infra.deploy.stacks import Stack

    aws = Aws(region)
    return aws, Stack(aws, stack_name)


def _parameters(pairs: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageProblem(f"--parameter {pair!r} is not NAME=VALUE", "Write it like --parameter LogLevel=DEBUG.")
        if name in given:
            raise UsageProblem(f"the parameter {name} is given twice", "Give it once.")
        given[name] = value
    return given


def _talk(settings: Settings, yes: bool) -> Talk:
    from runvoy_infra.deploy.apply import Talk

    def ask(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageProblem("there is no terminal to ask on", "Give --yes to go on without being asked.")
        return typer.confirm(question, err=True)

    return Talk(say=Console(settings).say, ask=ask)


def _check_has_key(settings: Settings) -> None:
    """Before anything is deployed: a configuration without a key is an error in every later command."""
    if not _configured(settings).get("api_key"):
        raise UsageProblem(
            "--configure needs an API key, and there is none in the configuration yet",
            "Give --seed-admin-user EMAIL to get one, or use `runvoy configure` afterwards.",
        )


def _configured(settings: Settings) -> dict[str, str]:
    """What config.yaml says of the profile that is meant; empty where it says nothing."""
    from runvoy_cli.home import config_file

    path = config.home() / config.CONFIG_NAME
    if not path.exists():
        return {}
    found = config_file.load(path)
    return found.top if settings.profile is None else found.profiles.get(settings.profile, {})


def _seed(aws: Aws, state: StackState, user: str, settings: Settings, configure: bool) -> dict[str, Any]:
    from runvoy_infra.deploy import seeding

    has_key = _configured(settings).get("deployment_id") == state.outputs["DeploymentId"]
    seeded = seeding.seed(aws, state, user, further_key=configure and not has_key)
    if configure:
        _configure(state, settings, seeded)
    elif seeded.token is not None and not settings.json:
        print_line(f"claim token    {seeded.token.to_text()}")
        Console(settings).hint(f"The first admin, {user}, uses it within 15 minutes: runvoy claim TOKEN")
    token = seeded.token.to_text() if seeded.token is not None and not configure else None
    return {"user": seeded.user, "claim_token": token}


def _configure(state: StackState, settings: Settings, seeded: Seeded | None) -> None:
    """Write config.yaml; with a token, its key is made first."""
    url = config.endpoint(state.outputs["Endpoint"], "the stack's endpoint")
    path = config.home() / config.CONFIG_NAME
    if seeded is not None and seeded.token is not None:
        from runvoy_cli.http.transport import Transport
        from runvoy_cli.members import claiming

        limit = settings.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
        patience = min(limit, _NEW_ADDRESS_SECONDS)
        claiming.redeem(
            config.home(), settings.profile, seeded.token, url, Transport(), limit, patience_seconds=patience
        )
    else:
        from runvoy_cli.home import config_file

        with told_about(path.parent):
            config_file.save(path, settings.profile, {"endpoint": url, "deployment_id": state.outputs["DeploymentId"]})
    Console(settings).say(f"wrote {path}" + (f", profile {settings.profile}" if settings.profile else ""))


def _stack_facts(name: str, state: StackState) -> dict[str, Any]:
    return {"name": name, "id": state.stack_id, "status": state.status, "outputs": dict(state.outputs)}


def _as_json(name: str, found: Status) -> dict[str, Any]:
    drift = None if found.drift is None else [one._asdict() for one in found.drift]
    return {
        **_stack_facts(name, found.state),
        "changed_at": found.state.changed_at.isoformat(),
        "resources": found.resources,
        "failures": list(found.failures),
        "alarms": list(found.alarms),
        "unread": list(found.unread),
        "drift": drift,
    }


def _as_lines(name: str, found: Status) -> list[str]:
    state = found.state
    lines = facts(
        [
            ("stack", f"{name}, {state.status} since {moment(state.changed_at)}"),
            ("reason", state.reason if not state.is_good else ""),
            ("resources", str(found.resources)),
            *((output, value) for output, value in sorted(state.outputs.items())),
        ]
    )
    lines += [f"failed: {failure}" for failure in found.failures]
    lines += [f"alarm: {alarm}" for alarm in found.alarms]
    for source in found.unread:
        lines.append(
            f"unread: {source} (a `destroy` was cut off, or somebody disabled it): what waits there is not started"
        )
    if found.unread:
        lines.append("destroy it again, or have its queues read again: runvoy infra apply")
    for one in found.drift or ():
        lines.append(f"drift: {one.status} {one.kind} {one.resource} {'; '.join(one.differences)}".rstrip())
    if found.drift is not None and not found.drift:
        lines.append("no drift: all that CloudFormation can compare is as the template says")
    return lines


def _told(settings: Settings, value: dict[str, Any], text: str) -> None:
    if settings.json:
        print_json(value)
    else:
        print_line(text)
