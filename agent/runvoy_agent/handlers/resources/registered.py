"""Loading the registered images: for admission, and for the routes about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runvoy_agent.core.images import Registered
from runvoy_agent.core.model import DefaultImage, Execution, Image
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.ports import Records
from runvoy_protocol.images import is_image_name
from runvoy_protocol.requests import RunRequest


class Images(NamedTuple):
    """Images by name, at the versions they were read at, and the name of the default one."""

    by_name: Mapping[str, Loaded[Image]]
    default: str | None

    @property
    def facts(self) -> Registered:
        known = {name: image.document for name, image in self.by_name.items() if image.document is not None}
        default = known.get(self.default) if self.default is not None else None
        return Registered(tuple(known.values()), default)

    def used_by(self, execution: Execution) -> tuple[Loaded[Image], ...]:
        """The image that an execution was given, for the commit to be held to."""
        return () if execution.image_name is None else (self.by_name[execution.image_name],)


def for_request(records: Records, request: RunRequest) -> Images:
    """The images that a request may mean. All are listed only if what it names is not the very name of one."""
    if request.isolation == "process":
        return Images({}, None)
    if request.image is not None:
        return candidates(records, request.image)
    default = load_default(records).document
    if default is None or default.name is None:
        return Images({}, None)
    image = load(records, default.name)
    return Images({default.name: image} if image.document is not None else {}, default.name)


def candidates(records: Records, asked: str) -> Images:
    """The images that `asked` may mean: the one of that name; if there is none, all, for it may be a reference or a short form.
    The listing of all may be stale."""
    if is_image_name(asked):
        exact = load(records, asked)
        if exact.document is not None:
            return Images({asked: exact}, None)
    found = {image.name: Loaded(store.image_key(image.name), image, version) for image, version in every(records)}
    return Images(found, None)


def every(records: Records) -> list[tuple[Image, int]]:
    """All registered images with their versions, by name."""
    return list(store.of_kind(records, store.KIND_IMAGE, Image))


def load(records: Records, name: str) -> Loaded[Image]:
    """The image of a name; no document, but the record's version, for one that is not registered any more."""
    current = store.load(records, store.image_key(name), Image)
    if current.document is not None and not current.document.is_registered:
        return current._replace(document=None)
    return current


def load_default(records: Records) -> Loaded[DefaultImage]:
    return store.load(records, store.DEFAULT_IMAGE_KEY, DefaultImage)
