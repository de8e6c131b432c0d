"""`runvoy images`: what runs may use, by name."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
import typer

from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import called_wrongly
from runvoy_cli.input.values import cpu_units, exact_text, memory_mib
from runvoy_cli.terminal.render import columns, facts, moment, print_json, print_line
from runvoy_cli.terminal.sanitize import one_line
from runvoy_cli.terminal.words import cpu_text, memory_text
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.images import ImageAnswer, ImagesAnswer, RegisterImage, check

_HEADER = ("NAME", "IMAGE", "CPU", "MEMORY", "PLATFORM", "ROLE", "DEFAULT", "DESCRIPTION")
app = new_app()


@app.callback(epilog="Example: runvoy images list")
def images() -> None:
    """Registered images. An execution uses one with `--image NAME` of `runvoy run`, and the default one without."""


@app.command(name="list", epilog="Example: runvoy --json images list")
def list_images(context: typer.Context) -> None:
    """List the registered images, by name."""
    session = open_session(context.obj)
    found = session.client.ask(ImagesAnswer, "GET", "/images").images
    if context.obj.json:
        print_json([_as_json(image) for image in found])
        return
    if not found:
        session.console.remark("no image is registered")
        return
    for line in columns(_HEADER, [_row(image) for image in found]):
        print_line(line)


@app.command(epilog="Example: runvoy images show terraform")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="IMAGE", help="Its name, its reference, or a short form of that.")],
) -> None:
    """Show the image that a run gets with `--image IMAGE`.

    A name says it alone, then a reference, then the end of one, with or without tag: terraform, terraform:1.9 or
    hashicorp/terraform for docker.io/hashicorp/terraform:1.9. If several are meant, they are listed (IMAGE_NOT_FOUND).
    """
    session = open_session(context.obj)
    image = _ask(session, exact_text(name, "the image"))
    if context.obj.json:
        print_json(_as_json(image))
        return
    for line in facts(_block(image)):
        print_line(line)


@app.command(epilog="Example: runvoy images register hashicorp/terraform:1.9 --name tf-prod --memory 2g --default")
def register(  # noqa: PLR0913, PLR0917 - as many as there are options
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="IMAGE", help="The image's reference, as an engine pulls it.", show_default=False)
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What runs call it.  [default: the reference]", show_default=False),
    ] = None,
    cpu: Annotated[
        str | None, typer.Option(metavar="CPU", help="vCPUs, like 0.5 or 2, or units like 512 (1,024 a vCPU).")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory, like 512m or 2g, or MiB: 512.")] = None,
    platform: Annotated[
        Literal["linux/arm64", "linux/amd64"] | None,
        typer.Option(help="The platform to run it on.  [default: the deployment's]", show_default=False),
    ] = None,
    task_role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="The role that commands in it act as, on AWS: name or ARN of one of the deployment's TaskRoleArns.",
            show_default=False,
        ),
    ] = None,
    default: Annotated[
        bool | None,
        typer.Option(
            "--default/--no-default", help="Whether runs without --image use it; as it is, without.", show_default=False
        ),
    ] = None,
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="What it is for, for people to read.", show_default=False)
    ] = "",
) -> None:
    """Register an image, or replace all of what is registered under its name.

    For operators and admins, and kept in the audit. CPU and memory are sizes that Fargate has; the one that is not given is
    the least that goes with the other. --default takes that from the image that was it. If somebody else changes the image
    meanwhile, nothing is changed (CONFLICT). With --json the image.
    """
    asked = RegisterImage(
        reference=exact_text(reference, "the image"),
        name=None if name is None else exact_text(name, "--name"),
        cpu=None if cpu is None else cpu_units(cpu),
        memory_mib=None if memory is None else memory_mib(memory),
        platform=platform,
        task_role=None if task_role is None else exact_text(task_role, "--task-role"),
        is_default=default,
        description=exact_text(description, "--description"),
    )
    with called_wrongly():
        check(asked)
    session = open_session(context.obj)
    known = _registered(session, asked.reference if asked.name is None else asked.name)
    body = msgspec.json.encode(msgspec.structs.replace(asked, version=0 if known is None else known.version))
    image = session.client.ask(ImageAnswer, "POST", "/images", body)
    if context.obj.json:
        print_json(_as_json(image))
        return
    told = f"{'registered' if known is None else 'replaced'} {image.name}"
    print_line(one_line(told + ("; runs without --image use it" if image.is_default else "")))


@app.command(epilog="Example: runvoy images unregister tf-prod")
def unregister(
    context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="The image's name, exactly.")]
) -> None:
    """Take an image from those that runs may use. What was admitted with it still runs.

    For operators and admins, and kept in the audit. If it was the default, there is none then. With --json the image as it
    was.
    """
    session = open_session(context.obj)
    image = session.client.ask(ImageAnswer, "DELETE", _path(exact_text(name, "the name")))
    if context.obj.json:
        print_json(_as_json(image))
        return
    print_line(one_line(f"unregistered {image.name}"))
    if image.is_default:
        session.console.say("there is no default image now")


def _registered(session: Session, name: str) -> ImageAnswer | None:
    """The image of exactly this name, if there is one."""
    try:
        found = _ask(session, name)
    except RunvoyError as error:
        if error.code is not ErrorCode.IMAGE_NOT_FOUND:
            raise
        return None
    return found if found.name == name else None  # a short form may mean another


def _ask(session: Session, name: str) -> ImageAnswer:
    return session.client.ask(ImageAnswer, "GET", _path(name))


def _path(name: str) -> str:
    return f"/images/{quote(name, safe='')}"


def _row(image: ImageAnswer) -> tuple[str, ...]:
    return (
        image.name,
        image.reference,
        cpu_text(image.cpu),
        memory_text(image.memory_mib),
        image.platform or "",
        image.task_role or "",
        "yes" if image.is_default else "",
        image.description,
    )


def _block(image: ImageAnswer) -> list[tuple[str, str]]:
    return [
        ("name", image.name),
        ("image", image.reference),
        ("default", "yes" if image.is_default else ""),
        ("cpu", cpu_text(image.cpu)),
        ("memory", memory_text(image.memory_mib)),
        ("platform", image.platform or ""),
        ("task role", image.task_role or ""),
        ("description", image.description),
        ("registered", f"{moment(image.registered_at)} by {image.registered_by}"),
        ("last change", f"{moment(image.updated_at)} by {image.updated_by}"),
    ]


def _as_json(image: ImageAnswer) -> dict[str, object]:
    """An image with all its fields, those that are empty too."""
    return {field: getattr(image, field) for field in ImageAnswer.__struct_fields__}
