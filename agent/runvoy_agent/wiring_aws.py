"""The composition root of the deployment on AWS: its five functions, each the adapters of AWS under one handler."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, NamedTuple

import msgspec

from runvoy_agent.aws import events, settings
from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling
from runvoy_agent.aws.functions import Event, Runtime
from runvoy_agent.aws.launcher import EcsLauncher, Tasks
from runvoy_agent.aws.objects import S3Objects
from runvoy_agent.aws.presigning import Presigner
from runvoy_agent.aws.queue import SqsQueue, SqsQueueCare
from runvoy_agent.aws.records import DynamoRecords
from runvoy_agent.aws.secrets import SsmSecrets
from runvoy_agent.aws.settings import Settings, SettingsError
from runvoy_agent.aws.task_definitions import EcsTaskDefinitions
from runvoy_agent.core import task_definition
from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.cost import OWN_MACHINE, Pricing
from runvoy_agent.core.task_definition import TaskImage
from runvoy_agent.handlers import control, ends, inbox, reconcile, retention, routes, seeding, starts
from runvoy_agent.handlers.admission.batches import RangesApart
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import messages
from runvoy_agent.handlers.documents.messages import EndMessage, InboxDelivery, StartMessage
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.metered import MeteredRecords
from runvoy_agent.ports import Clock, Launcher, Ports, PreconditionFailed, TaskDefinitions, Unavailable
from runvoy_agent.runner import bundle
from runvoy_protocol import aws_layout
from runvoy_protocol.errors import RunvoyError
from runvoy_web import origins, pages

log = logging.getLogger("runvoy.wiring")

_RANGE_RESERVE = timedelta(seconds=20)
"""What is left of an invocation's time when it takes up no more requests of a batch: for the one that it is at. As long as one
call may hang before it is tried again (aws.clients)."""

_IDENTITY = "deployment"
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
"""No deployment is older; and the reconcile function may not read the deployment's own secret, which says how old it is."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment keeps of itself beside what its stack says. `secret` is 32 bytes."""

    secret: bytes
    created_at: datetime


def _nothing_around(_: EndMessage) -> AbstractContextManager[None]:
    return nullcontext()


class Platform(NamedTuple):
    """What runs commands, and what it can do; the fields are those of Ports and Deployment. `settling` is entered around the
    handling of each word on an end."""

    launcher: Launcher
    capabilities: Capabilities
    task_definitions: TaskDefinitions | None = None
    runner_endpoint: str = ""
    look_for_containers: Callable[[], Capabilities] | None = None
    pricing: Pricing = OWN_MACHINE
    settling: Callable[[EndMessage], AbstractContextManager[None]] = _nothing_around


class AwsServices:
    """The ports of one deployment on AWS, and its functions on them. Commands run on `platform`: on ECS, if none is given."""

    def __init__(self, found: Settings, clients: Clients, clock: Clock, platform: Platform | None = None) -> None:
        self._settings = found
        self._clients = clients
        queue_names = {url.rpartition("/")[2]: name for name, url in found.queue_urls.items()}
        self._runtime = Runtime(found.deployment_id, clock, queue_names)
        path = aws_layout.parameter_path(found.deployment_id)
        self._platform = platform or _ecs(found, clients, clock)
        presigner = Presigner(clients, found.presign_role_arn, clock)
        self._presigner = presigner
        self._web_origins = origins.parse(found.web_origins)
        self._ports = Ports(
            records=MeteredRecords(DynamoRecords(clients, found.table, clock), self._runtime.meter.add),
            inbox=S3Objects(clients, found.inbox_bucket, presigner),
            outbox=S3Objects(clients, found.outbox_bucket, presigner),
            queue=RangesApart(SqsQueue(clients, found.queue_urls)),
            launcher=self._platform.launcher,
            secrets=SsmSecrets(clients, f"{path}/secrets", found.encryption_key_arn),
            clock=clock,
        )
        self._own_secrets = SsmSecrets(clients, f"{path}/own", found.encryption_key_arn)
        self._known: Deployment | None = None

    @property
    def ports(self) -> Ports:
        return self._ports

    @property
    def deployment(self) -> Deployment:
        """Read when it is first needed; kept for the life of the process, for it never changes."""
        if self._known is None:
            from importlib.metadata import version as installed_version

            identity = self._identity()
            self._known = Deployment(
                deployment_id=self._settings.deployment_id,
                version=installed_version("runvoy"),
                created_at=identity.created_at,
                secret=identity.secret,
                queues=SqsQueueCare(self._clients, self._settings.queue_urls, self._settings.dead_letters_urls),
                capabilities=self._platform.capabilities,
                look_for_containers=self._platform.look_for_containers,
                runner_endpoint=self._platform.runner_endpoint,
                task_definitions=self._platform.task_definitions,
                pricing=self._platform.pricing,
            )
        return self._known

    # -- the functions

    def inbox(self, event: Event, context: Any) -> Any:
        left = timedelta(milliseconds=context.get_remaining_time_in_millis())
        work_until = self._ports.clock.now() + left - _RANGE_RESERVE
        return self._runtime.serve_queue(event, context, partial(self._handle_inbox, work_until=work_until))

    def starts(self, event: Event, context: Any) -> Any:
        if self._settings.tasks is not None and not self._platform.runner_endpoint:
            raise SettingsError(f"{aws_layout.ENV_RUNNER_ENDPOINT} is missing: runners could not renew their grants")
        return self._runtime.serve_queue(event, context, self._handle_start)

    def ends(self, event: Event, context: Any) -> Any:
        return self._runtime.serve_queue(event, context, self._handle_end)

    def control(self, event: Event, context: Any) -> Any:
        """Calls of the function URL; and, of who may invoke the function itself, the first admin's seed."""

        def serve(event: Event) -> Any:
            if event.keys() == {aws_layout.SEED_ADMIN}:
                return seeding.handle(self._ports, self.deployment, event[aws_layout.SEED_ADMIN])
            try:
                request = routes.Request(*events.http_request(event))
            except RunvoyError as error:
                response = control.error_response(error)
                return events.http_answer(response.status, response.body, response.content_type)
            return self._serve_http(event, request)

        return self._runtime.invoke(event, context, serve)

    def _serve_http(self, event: Event, request: routes.Request) -> Any:
        page = pages.serve(request.method, request.path, request.headers, self._bucket_origins())
        if page is not None:
            return events.http_file(page.status, b"" if request.method == "HEAD" else page.body, page.headers)
        origin = request.headers.get("origin")
        told = origins.headers(origin, self._web_origins)
        if request.method == "OPTIONS" and origin in self._web_origins:
            return events.http_answer(204, b"", "application/json", (*told, *origins.PREFLIGHT_HEADERS))
        # Its own URL is made of this function, so nothing but the calls can tell it.
        deployment = self.deployment._replace(runner_endpoint=events.called_at(event))
        response = control.handle(self._ports, deployment, request)
        return events.http_answer(response.status, response.body, response.content_type, told)

    def _bucket_origins(self) -> tuple[str, ...]:
        """Where the viewer uploads to and reads from, beside the function."""
        buckets = (self._settings.inbox_bucket, self._settings.outbox_bucket)
        return tuple(dict.fromkeys(self._presigner.origin(bucket) for bucket in buckets))

    def reconcile(self, event: Event, context: Any) -> Any:
        """One round, once a minute. What fails is raised, so that the function's errors show it; the next one goes on."""

        def serve(_: Event) -> Any:
            self._count_dead_letters()
            done = reconcile.handle(self._ports)
            self._gauge(aws_layout.METRIC_REPAIRS, len(done.repairs))
            self._gauge(aws_layout.METRIC_LEFT, done.left)
            self._keep_up()
            return {"repairs": [repair._asdict() for repair in done.repairs], "left": done.left}

        return self._runtime.invoke(event, context, serve)

    # -- messages

    def _handle_inbox(self, body: bytes, work_until: datetime) -> None:
        """A notification of S3, a range of a batch, or a delivery that the reconciler repeats."""
        document = events.decoded(body)
        if events.is_test(document):
            log.info("S3 tested its notifications")
            return
        arrivals = events.arrivals(document)
        if arrivals is None:
            deliveries = [msgspec.convert(document, type=InboxDelivery)]
        else:
            deliveries = [InboxDelivery(**arrival._asdict()) for arrival in arrivals]
        for delivery in deliveries:
            with self._runtime.about(delivery.object_key.rpartition("/")[2]):
                inbox.handle(self._ports, self.deployment, messages.encode(delivery), work_until)

    def _handle_start(self, body: bytes) -> None:
        message = msgspec.json.decode(body, type=StartMessage)
        with self._runtime.about(message.execution_id):
            starts.handle(self._ports, self.deployment, body)

    def _handle_end(self, body: bytes) -> None:
        """A notification of S3 of what a runner wrote, a task's change of state, or the reconciler's word on one."""
        for message in self._ends_in(events.decoded(body)):
            with self._runtime.about(message.execution_id), self._platform.settling(message):
                ends.handle(self._ports, self.deployment, messages.encode(message))

    def _ends_in(self, document: Event) -> list[EndMessage]:
        if events.is_test(document):
            return []
        if events.is_task_change(document):
            stopped = events.task_stopped(document)
            return [] if stopped is None else [EndMessage(event="stopped", **stopped._asdict())]
        arrivals = events.arrivals(document)
        if arrivals is None:
            return [msgspec.convert(document, type=EndMessage)]
        reports = [events.run_report(arrival.object_key) for arrival in arrivals]
        return [EndMessage(**report._asdict()) for report in reports if report is not None]

    # -- the rest

    def _identity(self) -> Identity:
        """The deployment's own secret, made by whichever function needs it first."""
        stored = self._own_secrets.get(_IDENTITY)
        if stored is None:
            made = Identity(secret=secrets.token_bytes(32), created_at=self._ports.clock.now())
            try:
                self._own_secrets.put(_IDENTITY, msgspec.json.encode(made), if_absent=True)
            except PreconditionFailed:
                log.info("another function made the deployment's secret at the same moment")
            stored = self._own_secrets.get(_IDENTITY)
        if stored is None:
            raise Unavailable("the deployment's secret was written and cannot be read yet")
        return msgspec.json.decode(stored, type=Identity)

    def _keep_up(self) -> None:
        """Records alone: the buckets have rules of their own."""
        if not self._settings.keep_days:
            return
        swept = retention.keep_up(self._ports, _FIRST_DAY, timedelta(days=self._settings.keep_days))
        if swept is not None:
            log.info("forgot the records of %d executions", swept.executions)

    def _gauge(self, metric: str, value: int, **dimensions: str) -> None:
        """What is nothing in most rounds. A metric is paid for by the hours in which it is written, so nothing is not written; that
        rounds are made at all is told by Lambda's own count of them."""
        if value:
            self._runtime.meter.add(metric, value, **dimensions)

    def _count_dead_letters(self) -> None:
        """Asked in each round, for more than the number: SQS tells CloudWatch of a queue only while somebody calls it, and begins
        again up to a quarter of an hour late, which the alarm on dead letters would be as well."""
        for queue, url in self._settings.dead_letters_urls.items():
            with calling(f"counting the dead letters of {queue}"):
                answer = self._clients.get("sqs").get_queue_attributes(
                    QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
                )
            count = int(answer["Attributes"]["ApproximateNumberOfMessages"])
            self._gauge(aws_layout.METRIC_DEAD_LETTERS, count, queue=queue)


def _ecs(found: Settings, clients: Clients, clock: Clock) -> Platform:
    """Fargate, as the stack made it."""
    tasks = found.tasks
    if tasks is None:
        raise SettingsError("nothing says where commands run")

    def family(reference: str, platform: str | None) -> str:
        return aws_layout.task_family(found.deployment_id, reference, platform)

    def register_request(reference: str, platform: str | None) -> dict[str, Any]:
        return task_definition.register_request(
            TaskImage(
                family=family(reference, platform),
                image=reference,
                architecture=task_definition.architecture_of(platform),
                execution_role_arn=tasks.execution_role_arn,
                task_role_arn=tasks.task_role_arn,
                log_group=tasks.task_log_group,
                region=clients.region,
                runner_image=tasks.runner_image,
            )
        )

    signing = Presigner(clients, found.presign_role_arn, clock, decrypts_with=found.encryption_key_arn)
    launcher = EcsLauncher(
        clients,
        cluster=tasks.cluster,
        network=tasks.network,
        staging=S3Objects(clients, found.staging_bucket, signing),
        clock=clock,
        tasks=Tasks(family, bundle.pack, task_definition.run_overrides, tasks.task_role_arns),
        capacity_provider=tasks.capacity_provider,
    )
    capabilities = Capabilities(
        default_isolation="container",
        isolations=frozenset({"container"}),
        task_roles=tasks.task_role_arns,
        fargate_sizes=True,
    )
    return Platform(
        launcher,
        capabilities,
        EcsTaskDefinitions(clients, register_request),
        tasks.runner_endpoint,
        pricing=Pricing(clients.region, is_spot=tasks.capacity_provider == "FARGATE_SPOT"),
    )


@cache
def _services() -> AwsServices:
    """Made in the first invocation, and kept: what fails here fails that invocation, with a line that says why."""
    return AwsServices(settings.read(os.environ), Clients(), SystemClock())


def inbox_function(event: Event, context: Any) -> Any:
    return _services().inbox(event, context)


def starts_function(event: Event, context: Any) -> Any:
    return _services().starts(event, context)


def ends_function(event: Event, context: Any) -> Any:
    return _services().ends(event, context)


def control_function(event: Event, context: Any) -> Any:
    return _services().control(event, context)


def reconcile_function(event: Event, context: Any) -> Any:
    return _services().reconcile(event, context)
