"""Quotas on AWS's adapters: counted by DynamoDB in the transactions that admit, start and end."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.aws.conftest import Deployment
from tests.aws.deliveries import leave_result, shown, started, stop_event, upload
from tests.servers.fixtures import ON_SERVERS

from runvoy_agent.core.model import User
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.quotas import counts
from runvoy_protocol.states import Reason, State

pytestmark = ON_SERVERS


def own_name(deployment: Deployment) -> str:
    return str(json.loads(deployment.call("GET", "/api/v1/whoami")["body"])["user"])


def set_quotas(deployment: Deployment, **limits: int) -> None:
    records = deployment.services.ports.records
    user = store.load(records, store.user_key(own_name(deployment)), User)
    body = json.dumps({"version": user.version, "quotas": limits}).encode()
    answer = deployment.call("PUT", f"/api/v1/users/{own_name(deployment)}/quotas", body)
    assert answer["statusCode"] == 200, answer


def counted(deployment: Deployment) -> tuple[int, int]:
    name, records = own_name(deployment), deployment.services.ports.records
    keys = counts.unfinished_key(name), counts.running_key(name)
    unfinished, running = (counts.number(records.get(key), key).value for key in keys)
    return unfinished, running


def test_admissions_at_once_fill_the_limit_and_an_end_makes_room(deployment: Deployment) -> None:
    set_quotas(deployment, max_unfinished=2)
    first, task = started(deployment)
    uploads = [upload(deployment) for _ in range(5)]
    with ThreadPoolExecutor(3) as pool:
        failures = list(pool.map(partial(deployment.invoke, "inbox"), [message for _, message in uploads]))
    assert failures == [[]] * 5
    known = store.load_executions(deployment.services.ports.records, [execution_id for execution_id, _ in uploads])
    assert sum(one.document is not None for one in known.values()) == 1
    assert counted(deployment) == (2, 1)
    assert deployment.invoke("ends", leave_result(deployment, first, 0)) == []
    assert counted(deployment) == (2, 1), "its task was not seen stopped"
    event = stop_event(deployment, task, 0)
    for _ in range(2):
        assert deployment.invoke("ends", event) == []
    assert counted(deployment) == (1, 0)
    execution_id, message = upload(deployment)
    assert deployment.invoke("inbox", message) == []
    assert shown(deployment, execution_id).state is State.QUEUED


def test_what_is_over_the_places_is_not_launched(deployment: Deployment) -> None:
    set_quotas(deployment, max_running=1)
    started(deployment)
    waiting, message = upload(deployment)
    assert deployment.invoke("inbox", message) == []
    assert deployment.invoke("starts", *deployment.taken("starts")) == []
    status = shown(deployment, waiting)
    assert (status.state, status.reason) == (State.STARTING, Reason.CAPACITY)
    assert "has 1 running, and may have 1 at once" in status.message
    assert len(deployment.ecs.tasks) == 1
    assert counted(deployment) == (2, 1)
