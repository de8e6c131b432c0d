"""The routes about the playbooks that a user published: their own, for their browsers, which have no project's files."""

from __future__ import annotations

from runvoy_agent.core import playbooks
from runvoy_agent.core.access import Action
from runvoy_agent.core.model import Key, PlaybookSet
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.playbooks import PlaybooksAnswer, PublishedPlaybook, PublishPlaybooks, check


def list_playbooks(call: Call) -> Response:
    """What the caller has published. To a key that is limited to playbooks, those."""
    current = _load(call)
    found = playbooks.visible(_standing(call, current), call.key.limits)
    return answer(PlaybooksAnswer(playbooks=found, version=current.version))


def publish_playbooks(call: Call) -> Response:
    """These in place of all that the caller has published. The same again, as after a lost answer, is no change."""
    asked = call.body(PublishPlaybooks)
    check(asked.playbooks)
    current = _load(call)
    before = _standing(call, current)
    after = playbooks.published(asked.playbooks, before, call.key.key_id, call.ports.clock.now())
    if after == (() if current.document is None else current.document.playbooks):
        return answer(PlaybooksAnswer(playbooks=after, version=current.version))
    if asked.version != current.version:
        raise RunvoyError(ErrorCode.CONFLICT, "your published playbooks were changed since you looked")
    document = PlaybookSet(user=call.user.name, playbooks=after)
    message = playbooks.change_in_words(before, after)
    call.commit(store.put(current, document), call.audit("publish-playbooks", message=message))
    return answer(PlaybooksAnswer(playbooks=after, version=current.version + 1), audited=True)


def _load(call: Call) -> Loaded[PlaybookSet]:
    return store.load(call.ports.records, store.playbooks_key(call.user.name), PlaybookSet)


def _standing(call: Call, current: Loaded[PlaybookSet]) -> tuple[PublishedPlaybook, ...]:
    stored = () if current.document is None else current.document.playbooks
    found = (store.load(call.ports.records, store.key_key(one), Key).document for one in {one.key_id for one in stored})
    return playbooks.standing(stored, {key.key_id: key for key in found if key is not None}, call.user)


ROUTES: tuple[Route, ...] = (
    route("GET", "/playbooks", Action.READ_PLAYBOOKS, list_playbooks),
    route("PUT", "/playbooks", Action.PUBLISH_PLAYBOOKS, publish_playbooks, single_use=True),
)
