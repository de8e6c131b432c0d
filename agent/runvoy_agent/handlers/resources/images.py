"""The routes about images. Whoever registers one says which version of it they saw, so that of two at once one is told."""

from __future__ import annotations

import msgspec

from runvoy_agent.core import images
from runvoy_agent.core.access import Action
from runvoy_agent.core.model import DefaultImage, Image
from runvoy_agent.handlers.documents import all_executions, store
from runvoy_agent.handlers.resources import registered
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import Write
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.images import ImageAnswer, ImagesAnswer, RegisterImage, check
from runvoy_protocol.states import State


def list_images(call: Call) -> Response:
    records = call.ports.records
    default = _default_name(call)
    found = registered.every(records)
    return answer(ImagesAnswer(images=tuple(_shown(image, version, default == image.name) for image, version in found)))


def show_image(call: Call) -> Response:
    """The image that a run gets which names it so: by its name, its reference or a short form."""
    found = registered.candidates(call.ports.records, call.groups["name"])
    image = images.resolve(call.groups["name"], found.facts.images)
    return answer(_shown(image, found.by_name[image.name].version, _default_name(call) == image.name))


def register_image(call: Call) -> Response:
    """Register an image, or replace all of what is registered under its name. The same again, as after a lost answer, is
    the same image."""
    asked = call.body(RegisterImage)
    check(asked)
    task_role = images.task_role_of(asked.task_role, call.deployment.capabilities.task_roles)
    asked = msgspec.structs.replace(asked, task_role=task_role)
    name = asked.reference if asked.name is None else asked.name
    call.concerns(name)
    current = registered.load(call.ports.records, name)
    default = registered.load_default(call.ports.records)
    was_default = default.document is not None and default.document.name == name
    is_default = was_default if asked.is_default is None else asked.is_default
    image = _made(call, asked, name, current.document)
    definitions = call.deployment.task_definitions
    if definitions is not None:
        # Before the commit: what is registered can be started. The same image again brings an old definition up to date.
        definitions.register(image.reference, image.platform)
    if current.document is not None and _is_same(image, current.document) and is_default == was_default:
        return answer(_shown(current.document, current.version, is_default))
    version = current.version if current.document is not None else 0
    if asked.version != version:
        became = "unregistered" if not version else "changed" if asked.version else "registered"
        raise RunvoyError(ErrorCode.CONFLICT, f"the image {name} was {became} since you looked")
    message = image.reference + (" as the default image" if is_default else "")
    writes: list[Write] = [store.put(current, image), call.audit("register-image", message=message)]
    if is_default != was_default:
        writes.append(store.put(default, DefaultImage(name=name if is_default else None)))
    elif asked.is_default is not None:
        writes.append(default.check)
    call.commit(*writes)
    return answer(_shown(image, current.version + 1, is_default), audited=True)


def unregister_image(call: Call) -> Response:
    """From this commit on no run gets it. Those that were admitted keep what they were given."""
    name = call.groups["name"]
    found = registered.candidates(call.ports.records, name)
    current = found.by_name.get(name)
    if current is None or current.document is None:
        raise images.not_found(name, found.facts.images)
    image = current.document
    default = registered.load_default(call.ports.records)
    was_default = default.document is not None and default.document.name == name
    gone = msgspec.structs.replace(image, unregistered_at=call.ports.clock.now(), updated_by=call.user.name)
    writes: list[Write] = [
        store.put(current, gone),
        call.audit("unregister-image", message=image.reference),
    ]
    if was_default:
        writes.append(store.put(default, DefaultImage()))
    call.commit(*writes)
    _deregister(call, image)
    return answer(_shown(image, current.version, was_default), audited=True)


def _deregister(call: Call, gone: Image) -> None:
    """Have the platform forget what nothing is started of any more: no other name of the same image, nothing that waits."""
    definitions = call.deployment.task_definitions
    if definitions is None:
        return
    meant = (gone.reference, gone.platform)
    if any((image.reference, image.platform) == meant for image, _ in registered.every(call.ports.records)):
        return
    for execution in all_executions.active(call.ports.records):
        if (execution.image, execution.platform) == meant and execution.state in (State.QUEUED, State.STARTING):
            return  # its definition stays; `infra destroy` takes what is left
    definitions.deregister(*meant)


def _made(call: Call, asked: RegisterImage, name: str, old: Image | None) -> Image:
    cpu, memory_mib = images.fargate_size(asked.cpu, asked.memory_mib)
    now = call.ports.clock.now()
    return Image(
        name=name,
        reference=asked.reference,
        registered_by=old.registered_by if old is not None else call.user.name,
        registered_at=old.registered_at if old is not None else now,
        updated_by=call.user.name,
        updated_at=now,
        cpu=cpu,
        memory_mib=memory_mib,
        platform=asked.platform,
        task_role=asked.task_role,
        description=asked.description,
    )


def _is_same(image: Image, other: Image) -> bool:
    return image == msgspec.structs.replace(other, updated_by=image.updated_by, updated_at=image.updated_at)


def _default_name(call: Call) -> str | None:
    default = registered.load_default(call.ports.records).document
    return default.name if default is not None else None


def _shown(image: Image, version: int, is_default: bool) -> ImageAnswer:
    return ImageAnswer(
        name=image.name,
        reference=image.reference,
        registered_by=image.registered_by,
        registered_at=image.registered_at,
        updated_by=image.updated_by,
        updated_at=image.updated_at,
        version=version,
        is_default=is_default,
        cpu=image.cpu,
        memory_mib=image.memory_mib,
        platform=image.platform,
        task_role=image.task_role,
        description=image.description,
    )


ROUTES: tuple[Route, ...] = (
    route("GET", "/images", Action.READ_IMAGES, list_images),
    route("POST", "/images", Action.MANAGE_IMAGES, register_image, single_use=True),
    route("GET", "/images/{name}", Action.READ_IMAGES, show_image),
    route("DELETE", "/images/{name}", Action.MANAGE_IMAGES, unregister_image, single_use=True),
)
