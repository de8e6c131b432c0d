"""What every function does around its handler: batches with partial failures, log lines with ids, metrics, traces.

One line of the log is one JSON object with the invocation's and, where one is known, the execution's id. Metrics are
lines of the log too (CloudWatch's embedded format), so counting costs no call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

from runvoy_agent.aws import queue as sqs
from runvoy_agent.ports import Clock
from runvoy_protocol import aws_layout

_UNITS = {
    aws_layout.METRIC_LOCK_WAIT: MetricUnit.Seconds,
    aws_layout.METRIC_QUEUE_AGE: MetricUnit.Seconds,
}

Event = dict[str, Any]


class Meter:
    """Counts, kept until they are flushed; each with the deployment as a dimension, and what it names besides."""

    def __init__(self, deployment_id: str) -> None:
        self._deployment_id = deployment_id
        self._sets: dict[tuple[tuple[str, str], ...], EphemeralMetrics] = {}

    def add(self, metric: str, value: float = 1, **dimensions: str) -> None:
        """Count `value` more (the queue age and the lock wait: seconds) of one of aws_layout's METRIC_…."""
        place = tuple(sorted(dimensions.items()))
        found = self._sets.get(place)
        if found is None:
            found = self._sets[place] = EphemeralMetrics(namespace=aws_layout.METRICS_NAMESPACE)
            found.add_dimension(aws_layout.DIMENSION_DEPLOYMENT, self._deployment_id)
            for name, of in place:
                found.add_dimension(name, of)
        found.add_metric(metric, _UNITS.get(metric, MetricUnit.Count), value)

    def flush(self) -> None:
        """Write what was counted."""
        sets, self._sets = self._sets, {}
        for counted in sets.values():
            counted.flush_metrics()


class Runtime:
    """One function's surroundings; made once per process."""

    def __init__(self, deployment_id: str, clock: Clock, queue_names: Mapping[str, str]) -> None:
        """`queue_names`: each queue's own name → what runvoy calls it."""
        # Its name is that of the parent of all of runvoy's loggers: their lines go through its handler.
        self.logger = Logger(service="runvoy", use_rfc3339=True, utc=True, serialize_stacktrace=False)
        self.meter = Meter(deployment_id)
        self._clock = clock
        self._queue_names = queue_names
        self._tracer: Any = None

    def invoke(self, event: Event, context: Any, serve: Callable[[Event], Any]) -> Any:
        """Run one invocation: its id on every line, and what it counted written at its end, whatever that is."""

        def inner(event: Event, _: Any) -> Any:
            try:
                return serve(event)
            finally:
                self.meter.flush()

        return self.logger.inject_lambda_context(inner, clear_state=True)(event, context)

    def serve_queue(self, event: Event, context: Any, handle: Callable[[bytes], None]) -> Any:
        """Run `handle` for each message. Those that raised are named in the answer, so they alone come again."""

        def serve(event: Event) -> Any:
            processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
            return process_partial_response(event, lambda record: self._deliver(record, handle), processor, context)

        return self.invoke(event, context, serve)

    @contextmanager
    def about(self, execution_id: str) -> Iterator[None]:
        """What is logged and traced inside is about this execution."""
        with self.logger.append_context_keys(execution_id=execution_id), self._traced(execution_id):
            yield

    def _deliver(self, record: Any, handle: Callable[[bytes], None]) -> None:
        physical_name = record.event_source_arn.rpartition(":")[2]
        queue = self._queue_names.get(physical_name, physical_name)
        sent_ms = int(record.attributes.sent_timestamp)
        age = self._clock.now().timestamp() - sent_ms / 1000
        self.meter.add(aws_layout.METRIC_QUEUE_AGE, max(0.0, round(age, 3)), queue=queue)
        with self.logger.append_context_keys(queue=queue, message_id=record.message_id):
            try:
                handle(sqs.decode(record.body))
            except Exception:
                receives = record.attributes.approximate_receive_count
                self.logger.exception("the delivery failed", extra={"receives": int(receives)})
                self.meter.add(aws_layout.METRIC_FAILED_DELIVERIES, queue=queue)
                raise

    @contextmanager
    def _traced(self, execution_id: str) -> Iterator[None]:
        """A subsegment where this invocation is sampled. Only then is X-Ray's library loaded: it takes as long to import
        as everything else together."""
        if "Sampled=1" not in os.environ.get("_X_AMZN_TRACE_ID", ""):
            yield
            return
        if self._tracer is None:
            from aws_lambda_powertools.tracing import Tracer

            self._tracer = Tracer(service="runvoy", auto_patch=False)
        with self._tracer.provider.in_subsegment(name="## delivery") as subsegment:
            if subsegment is not None:  # the library's context may be missing, which is no reason to fail a delivery
                subsegment.put_annotation("execution_id", execution_id)
            yield
