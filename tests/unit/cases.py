"""Each route, called by a member on what is theirs or on what is somebody else's."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tests.unit.calls import add_key, claim_body, new_key, ok, set_user, user_of

from runvoy_agent.handlers.control import ROUTES
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.handlers.routes import Route
from runvoy_agent.ports import Add
from runvoy_protocol import requests
from runvoy_protocol.control import API_PREFIX
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

LIMITS = KeyLimits(labels={"team": "data"})

Asked = tuple[str, str, object]
"""Method, path under the API's prefix, body."""


class Scene(NamedTuple):
    """One caller: `key` calls; `whose_name` and `whose_key` are of whom the call is about."""

    world: World
    name: str
    key: SigningKey
    whose_name: str
    whose_key: SigningKey

    def execution(self, *locks: str) -> str:
        """An execution of `whose`: submitted while they might."""
        role = user_of(self.world, self.whose_name)[0].role
        set_user(self.world, self.whose_name, role=Role.DEVELOPER)
        request = self.world.request(labels={"team": "data"}, locks=locks)
        receipt = self.world.submit(request, self.whose_key)
        assert receipt.outcome == "accepted", receipt
        set_user(self.world, self.whose_name, role=role)
        return request.request_id

    def held_lock(self) -> tuple[str, str]:
        execution_id = self.execution(name := f"lock-{self.name}")
        self.world.start(execution_id)
        return name, execution_id

    def miscounted(self) -> str:
        """A user whose count is wrong: `whose`."""
        self.world.records.commit([Add(counts.unfinished_key(self.whose_name), -1)])
        return self.whose_name

    def image(self) -> str:
        """A registered image."""
        ok(self.world, "POST", "/images", {"reference": (name := f"image-{self.name}")})
        return name

    def secret(self) -> str:
        """A secret of `whose`: made while they might."""
        role = user_of(self.world, self.whose_name)[0].role
        set_user(self.world, self.whose_name, role=Role.DEVELOPER)
        whole = add_key(self.world, self.whose_name)
        ok(self.world, "POST", "/secrets", _secret(name := f"secret-{self.name}"), whole)
        set_user(self.world, self.whose_name, role=role)
        return name

    def version(self) -> int:
        return user_of(self.world, self.whose_name)[1]


def scene(world: World, role: Role, *, limited: bool, whose: str) -> Scene:
    """A new caller. `whose` they call about: `own`, `sibling` (another key of theirs), or `other`."""
    number = int.from_bytes(world.clock.random(4), "big")
    name, other = f"member{number}", f"other{number}"
    made = world.add_user(name, role)
    key = add_key(world, name, LIMITS) if limited else made
    sibling = made if limited else add_key(world, name)
    if whose == "other":
        return Scene(world, name, key, other, world.add_user(other, Role.DEVELOPER))
    return Scene(world, name, key, name, key if whose == "own" else sibling)


def _secret(name: str) -> dict[str, object]:
    return {"name": name, "env_name": "VALUE", "value": "aHVudGVyMjI="}


def _release(scene: Scene) -> Asked:
    name, execution_id = scene.held_lock()
    return "POST", f"/locks/{name}/release", {"execution_id": execution_id}


def _dry_run(scene: Scene) -> Asked:
    body = requests.encode(scene.world.request(labels={"team": "data"}))
    return "POST", "/dry-run", {"request": base64.b64encode(body).decode()}


def _revoke_key(scene: Scene) -> Asked:
    return "DELETE", f"/keys/{scene.whose_key.key_id}", None


CASES: dict[str, Callable[[Scene], Asked]] = {
    "GET /whoami": lambda scene: ("GET", "/whoami", None),
    "POST /grants/inbox": lambda scene: ("POST", "/grants/inbox", None),
    "POST /grants/outbox": lambda scene: ("POST", "/grants/outbox", {"execution_id": scene.execution()}),
    # The grant of what the caller may not read is empty.
    "POST /grants/logs": lambda scene: ("POST", "/grants/logs", {"execution_ids": [scene.execution()]}),
    "GET /executions": lambda scene: ("GET", f"/executions?owner={scene.whose_name}", None),
    # What the caller may not see is `unknown` in the answer.
    "POST /executions/statuses": lambda scene: ("POST", "/executions/statuses", {"execution_ids": [scene.execution()]}),
    "GET /executions/{execution_id}": lambda scene: ("GET", f"/executions/{scene.execution()}", None),
    "DELETE /executions/{execution_id}": lambda scene: ("DELETE", f"/executions/{scene.execution()}", None),
    "GET /locks": lambda scene: ("GET", "/locks", None),
    "GET /locks/{name}": lambda scene: ("GET", f"/locks/{scene.held_lock()[0]}", None),
    "POST /locks/{name}/release": _release,
    "POST /health/reconcile": lambda scene: ("POST", "/health/reconcile", None),
    "GET /health/queues": lambda scene: ("GET", "/health/queues", None),
    "POST /health/redrive": lambda scene: ("POST", "/health/redrive", {}),
    "GET /users": lambda scene: ("GET", "/users", None),
    "POST /users": lambda scene: ("POST", "/users", {"name": f"new-{scene.name}", "role": "admin"}),
    "GET /users/{name}": lambda scene: ("GET", f"/users/{scene.whose_name}", None),
    "POST /users/{name}/role": lambda scene: (
        "POST",
        f"/users/{scene.whose_name}/role",
        {"role": "operator" if user_of(scene.world, scene.whose_name)[0].role != "operator" else "viewer"}
        | {"version": scene.version()},
    ),
    "POST /users/{name}/revoke": lambda scene: (
        "POST",
        f"/users/{scene.whose_name}/revoke",
        {"version": scene.version()},
    ),
    "POST /users/{name}/claims": lambda scene: ("POST", f"/users/{scene.whose_name}/claims", {}),
    "GET /quotas": lambda scene: ("GET", "/quotas", None),
    "PUT /quotas": lambda scene: (
        "PUT",
        "/quotas",
        {"version": ok(scene.world, "GET", "/quotas")["version"], "quotas": {"max_unfinished": 50_000}},
    ),
    "POST /quotas/recount": lambda scene: ("POST", "/quotas/recount", {"user": scene.miscounted()}),
    "PUT /users/{name}/quotas": lambda scene: (
        "PUT",
        f"/users/{scene.whose_name}/quotas",
        {"version": scene.version(), "quotas": {"max_unfinished": 50_000}},
    ),
    "POST /keys/claims": lambda scene: ("POST", "/keys/claims", {"terms": {"name": "browser"}}),
    "GET /keys": lambda scene: ("GET", f"/keys?user={scene.whose_name}", None),
    "POST /keys": lambda scene: ("POST", "/keys", claim_body(new_key(scene.world))),
    "POST /keys/rotate": lambda scene: ("POST", "/keys/rotate", claim_body(new_key(scene.world))),
    "DELETE /keys/{key_id}": _revoke_key,
    "GET /images": lambda scene: ("GET", "/images", None),
    "POST /images": lambda scene: ("POST", "/images", {"reference": f"image-{scene.name}"}),
    "GET /images/{name}": lambda scene: ("GET", f"/images/{scene.image()}", None),
    "DELETE /images/{name}": lambda scene: ("DELETE", f"/images/{scene.image()}", None),
    "GET /playbooks": lambda scene: ("GET", "/playbooks", None),
    "PUT /playbooks": lambda scene: ("PUT", "/playbooks", {"version": 0, "playbooks": []}),
    "GET /secrets": lambda scene: ("GET", "/secrets", None),
    "POST /secrets": lambda scene: ("POST", "/secrets", _secret(f"new-{scene.name}")),
    "GET /secrets/{name}": lambda scene: ("GET", f"/secrets/{scene.secret()}", None),
    "PUT /secrets/{name}": lambda scene: ("PUT", f"/secrets/{scene.secret()}", {"version": 1, "description": "x"}),
    "DELETE /secrets/{name}": lambda scene: ("DELETE", f"/secrets/{scene.secret()}?version=1", None),
    "POST /secrets/{name}/value": lambda scene: ("POST", f"/secrets/{scene.secret()}/value", None),
    "GET /audit": lambda scene: ("GET", "/audit?limit=1", None),
    "POST /dry-run": _dry_run,
    "GET /cost": lambda scene: ("GET", f"/cost?owner={scene.whose_name}", None),
    "GET /audit/head": lambda scene: ("GET", "/audit/head", None),
    "GET /audit/seals": lambda scene: ("GET", "/audit/seals?from=1", None),
    "GET /audit/records": lambda scene: ("GET", "/audit/records?day=2026-05-04&part=0", None),
    "POST /audit/records": lambda scene: ("POST", "/audit/records", {"event_ids": [scene.execution()]}),
    "GET /audit/evidence/{execution_id}": lambda scene: ("GET", f"/audit/evidence/{scene.execution()}", None),
    "GET /executions/{execution_id}/request": lambda scene: ("GET", f"/executions/{scene.execution()}/request", None),
    "GET /trace/{execution_id}": lambda scene: ("GET", f"/trace/{scene.execution()}", None),
}


def called(route: Route) -> str:
    return f"{route.method} {route.path.removeprefix(API_PREFIX)}"


BY_CALL = {called(route): route for route in ROUTES}
