"""Who may do what: every cell of the matrix (role × route × own or other's, and a limited key of each role), by real signed
calls. What is expected is written down here once more, so that a change of core.access.ALLOWED is made twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import call, code_of, signed
from tests.unit.cases import BY_CALL, CASES, LIMITS, scene

from runvoy_agent.core.access import Action
from runvoy_agent.handlers import control
from runvoy_agent.handlers.routes import Response, answer
from runvoy_agent.wiring import gc_route, stack_route
from runvoy_protocol.control import LocksAnswer
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

# `yes`; `no` is FORBIDDEN, `hid` NOT_FOUND. Where things have owners: with one's own/with another member's.
EXPECTED = """
                                    viewer    developer  operator  admin
GET /whoami                         yes       yes        yes       yes
POST /grants/inbox                  no        yes        yes       yes
POST /grants/outbox                 yes/yes   yes/hid    yes/yes   yes/yes
POST /grants/logs                   yes/yes   yes/yes    yes/yes   yes/yes
GET /executions                     yes/yes   yes/no     yes/yes   yes/yes
POST /executions/statuses           yes/yes   yes/yes    yes/yes   yes/yes
GET /executions/{execution_id}      yes/yes   yes/hid    yes/yes   yes/yes
DELETE /executions/{execution_id}   no/no     yes/hid    yes/yes   yes/yes
GET /locks                          yes       yes        yes       yes
GET /locks/{name}                   yes       yes        yes       yes
POST /locks/{name}/release          no        no         yes       yes
POST /health/reconcile              no        no         yes       yes
GET /health/queues                  no        no         yes       yes
POST /health/redrive                no        no         yes       yes
GET /users                          no        no         yes       yes
POST /users                         no        no         no        yes
GET /users/{name}                   no        no         yes       yes
POST /users/{name}/role             no        no         no        yes
POST /users/{name}/revoke           no        no         no        yes
POST /users/{name}/claims           no        no         no        yes
GET /quotas                         no        no         yes       yes
PUT /quotas                         no        no         no        yes
POST /quotas/recount                no        no         no        yes
PUT /users/{name}/quotas            no        no         no        yes
GET /keys                           yes/no    yes/no     yes/yes   yes/yes
POST /keys                          yes       yes        yes       yes
POST /keys/claims                   yes       yes        yes       yes
POST /keys/rotate                   yes       yes        yes       yes
DELETE /keys/{key_id}               yes/hid   yes/hid    yes/no    yes/yes
GET /images                         no        yes        yes       yes
POST /images                        no        no         yes       yes
GET /images/{name}                  no        yes        yes       yes
DELETE /images/{name}               no        no         yes       yes
GET /playbooks                      no        yes        yes       yes
PUT /playbooks                      no        yes        yes       yes
GET /secrets                        no/no     yes/yes    yes/yes   yes/yes
POST /secrets                       no        yes        yes       yes
GET /secrets/{name}                 no/no     yes/hid    yes/yes   yes/yes
PUT /secrets/{name}                 no/no     yes/hid    yes/yes   yes/yes
DELETE /secrets/{name}              no/no     yes/hid    yes/yes   yes/yes
POST /secrets/{name}/value          no/no     yes/hid    yes/yes   yes/yes
GET /audit                          no        no         no        yes
GET /cost                           yes/no    yes/no     yes/yes   yes/yes
POST /dry-run                       yes       yes        yes       yes
GET /audit/head                     no        no         no        yes
GET /audit/seals                    no        no         no        yes
GET /audit/records                  no        no         no        yes
POST /audit/records                 no        no         no        yes
GET /audit/evidence/{execution_id}  no        no         no        yes
GET /trace/{execution_id}           yes/yes   yes/hid    yes/yes   yes/yes
GET /executions/{execution_id}/request yes/no yes/hid   yes/yes   yes/yes
"""

# A limited key. Where things have owners: its own/those of another key of its user/another member's.
EXPECTED_OF_LIMITED_KEYS = """
                                    viewer       developer    operator     admin
GET /whoami                         yes          yes          yes          yes
POST /grants/inbox                  no           yes          yes          yes
POST /grants/outbox                 yes/hid/hid  yes/hid/hid  yes/hid/hid  yes/hid/hid
POST /grants/logs                   yes/yes/yes  yes/yes/yes  yes/yes/yes  yes/yes/yes
GET /executions                     yes/yes/no   yes/yes/no   yes/yes/no   yes/yes/no
POST /executions/statuses           yes/yes/yes  yes/yes/yes  yes/yes/yes  yes/yes/yes
GET /executions/{execution_id}      yes/hid/hid  yes/hid/hid  yes/hid/hid  yes/hid/hid
DELETE /executions/{execution_id}   no/no/no     yes/hid/hid  yes/hid/hid  yes/hid/hid
GET /locks                          no           no           no           no
GET /locks/{name}                   no           no           no           no
POST /locks/{name}/release          no           no           no           no
POST /health/reconcile              no           no           no           no
GET /health/queues                  no           no           no           no
POST /health/redrive                no           no           no           no
GET /users                          no           no           no           no
POST /users                         no           no           no           no
GET /users/{name}                   no           no           no           no
POST /users/{name}/role             no           no           no           no
POST /users/{name}/revoke           no           no           no           no
POST /users/{name}/claims           no           no           no           no
GET /quotas                         no           no           no           no
PUT /quotas                         no           no           no           no
POST /quotas/recount                no           no           no           no
PUT /users/{name}/quotas            no           no           no           no
GET /keys                           no/no/no     no/no/no     no/no/no     no/no/no
POST /keys                          no           no           no           no
POST /keys/claims                   no           no           no           no
POST /keys/rotate                   yes          yes          yes          yes
DELETE /keys/{key_id}               yes/no/hid   yes/no/hid   yes/no/hid   yes/no/hid
GET /images                         no           no           no           no
POST /images                        no           no           no           no
GET /images/{name}                  no           no           no           no
DELETE /images/{name}               no           no           no           no
GET /playbooks                      no           yes          yes          yes
PUT /playbooks                      no           no           no           no
GET /secrets                        no/no/no     no/no/no     no/no/no     no/no/no
POST /secrets                       no           no           no           no
GET /secrets/{name}                 no/no/no     no/no/no     no/no/no     no/no/no
PUT /secrets/{name}                 no/no/no     no/no/no     no/no/no     no/no/no
DELETE /secrets/{name}              no/no/no     no/no/no     no/no/no     no/no/no
POST /secrets/{name}/value          no/no/no     no/no/no     no/no/no     no/no/no
GET /audit                          no           no           no           no
GET /cost                           no/no/no     no/no/no     no/no/no     no/no/no
POST /dry-run                       yes          yes          yes          yes
GET /audit/head                     no           no           no           no
GET /audit/seals                    no           no           no           no
GET /audit/records                  no           no           no           no
POST /audit/records                 no           no           no           no
GET /audit/evidence/{execution_id}  no           no           no           no
GET /trace/{execution_id}           yes/hid/hid  yes/hid/hid  yes/hid/hid  yes/hid/hid
GET /executions/{execution_id}/request yes/hid/hid yes/hid/hid yes/hid/hid yes/hid/hid
"""
WHOSE = ("own", "other")
WHOSE_OF_LIMITED_KEYS = ("own", "sibling", "other")


def cells(table: str) -> dict[str, dict[Role, str]]:
    head, *lines = table.strip("\n").splitlines()
    roles = [Role(name) for name in head.split()]
    rows = [line.split() for line in lines]
    return {f"{row[0]} {row[1]}": dict(zip(roles, row[2:], strict=True)) for row in rows}


def outcome(response: Response) -> str:
    if response.status == 200:
        return "yes"
    return {ErrorCode.FORBIDDEN: "no", ErrorCode.NOT_FOUND: "hid"}.get(code := code_of(response), code.value)


@pytest.mark.parametrize("limited", [False, True], ids=["whole", "limited"])
@pytest.mark.parametrize("role", Role)
def test_every_cell(world: World, role: Role, limited: bool) -> None:
    expected = cells(EXPECTED_OF_LIMITED_KEYS if limited else EXPECTED)
    everybody = WHOSE_OF_LIMITED_KEYS if limited else WHOSE
    found = {}
    for name, case in CASES.items():
        outcomes = []
        for whose in everybody if BY_CALL[name].other is not None else ("other",):
            caller = scene(world, role, limited=limited, whose=whose)
            method, path, body = case(caller)
            outcomes.append(outcome(call(world, method, path, body, caller.key)))
        found[name] = "/".join(outcomes)
    assert found == {name: row[role] for name, row in expected.items()}


def test_no_route_is_without_cells() -> None:
    assert set(BY_CALL) == set(CASES) == set(cells(EXPECTED)) == set(cells(EXPECTED_OF_LIMITED_KEYS))


def test_every_action_is_some_route_s() -> None:
    """An action that no route asks for would be a right that nobody looks at."""
    asked = {route.action for route in BY_CALL.values()} | {route.other for route in BY_CALL.values()}
    assert set(Action) - asked == {Action.FORGET}


@pytest.mark.parametrize("role", Role)
def test_the_embedded_stack_s_own_routes(world: World, role: Role) -> None:
    routes = [made(lambda call: answer(LocksAnswer(locks=()))) for made in (stack_route, gc_route)]
    for limited in (False, True):
        for method, path, roles in (
            ("GET", "/api/v1/stack", (Role.OPERATOR, Role.ADMIN)),
            ("POST", "/api/v1/stack/gc", (Role.ADMIN,)),
        ):
            caller = scene(world, role, limited=limited, whose="own")
            request = signed(world, method, path, b"", caller.key)
            response = control.handle(world.ports, world.deployment, request, routes)
            assert outcome(response) == ("yes" if role in roles and not limited else "no")


def test_a_list_holds_only_what_its_caller_may_see(world: World) -> None:
    mine = scene(world, Role.ADMIN, limited=True, whose="own")
    theirs = mine._replace(whose_key=world.add_user("dave", Role.DEVELOPER), whose_name="dave")
    own, _ = mine.execution(), theirs.execution()
    sibling = scene(world, Role.DEVELOPER, limited=False, whose="sibling")
    by_sibling = sibling.execution()

    def listed(key: object) -> set[str]:
        page = json.loads(call(world, "GET", "/executions", None, key).body)  # type: ignore[arg-type]
        return {execution["execution_id"] for execution in page["executions"]}

    assert listed(mine.key) == {own}
    assert listed(sibling.key) == {by_sibling}
    assert len(listed(world.signing_key)) == 3


def test_a_limited_key_is_told_that_it_is_the_key(world: World) -> None:
    caller = scene(world, Role.ADMIN, limited=True, whose="own")
    response = call(world, "GET", "/audit", None, caller.key)
    assert b"is limited" in response.body
    shown = json.loads(call(world, "GET", "/whoami", None, caller.key).body)
    assert shown["limits"] == {"labels": LIMITS.labels}
