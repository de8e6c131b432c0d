"""What to look at: alarms for what a person must act on, a dashboard for the rest."""

from __future__ import annotations

from typing import NamedTuple

import aws_cdk
from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns

from runvoy_infra.stack.functions import Functions
from runvoy_infra.stack.parameters import Parameters
from runvoy_infra.stack.queues import VISIBILITY_SECONDS, Queues
from runvoy_protocol import aws_layout

_OLDEST_SECONDS = 300
_MINUTE = 60
_FIVE_MINUTES = 300
# A period of an alarm that a message which fails each time it comes is seen in: CloudWatch takes whole minutes.
_MESSAGE_COMES_AGAIN = VISIBILITY_SECONDS + _MINUTE
_WIDTH = 12


class _Metric(NamedTuple):
    """One of AWS's own; `of` is the value of its one dimension."""

    namespace: str
    name: str
    dimension: str
    of: str
    statistic: str = "Maximum"


class Watch:
    """Alarms that lack data are fine, but for the reconciler's: a deployment that nobody uses has none."""

    def __init__(
        self, stack: Stack, parameters: Parameters, queues: Queues, functions: Functions, deployment_id: str
    ) -> None:
        self._stack = stack
        self._parameters = parameters
        self._queues = queues
        self._functions = functions
        self._deployment_id = deployment_id
        self.topic = self._topic()
        self._alarms()
        self._dashboard()

    def _topic(self) -> sns.Topic:
        """Where alarms go: to an address that is given, and to whoever subscribes besides."""
        topic = sns.Topic(self._stack, "Alarms", enforce_ssl=True)
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Alarms",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": aws_cdk.Aws.ACCOUNT_ID}},
            )
        )
        email = sns.CfnSubscription(
            self._stack,
            "AlarmEmailSubscription",
            topic_arn=topic.topic_arn,
            protocol="email",
            endpoint=self._parameters.alarm_email.value_as_string,
        )
        email.cfn_options.condition = self._parameters.has_alarm_email
        return topic

    def _alarms(self) -> None:
        for name, queue in self._queues.by_name.items():
            title = name.capitalize()
            dead = _Metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue.dead_letters.queue_name)
            about = f"Messages of the {name} queue failed five times: docs/aws.md, 'Dead letters'"
            self._alarm(f"{title}DeadLettersAlarm", about, dead, above=0)
            if name not in ("ranges", "bulk"):  # a batch may well wait
                oldest = _Metric("AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", queue.queue.queue_name)
                about = f"Messages wait in the {name} queue for over five minutes"
                self._alarm(f"{title}AgeAlarm", about, oldest, above=_OLDEST_SECONDS, periods=5)
        for name, function in self._functions.by_name.items():
            for metric, what in (("Errors", "fails"), ("Throttles", "is throttled")):
                count = _Metric("AWS/Lambda", metric, "FunctionName", function.function.ref, "Sum")
                about = f"The {name} function {what}"
                # A message that failed comes again after VISIBILITY_SECONDS: where there are few, most minutes have no errors.
                self._alarm(
                    f"{name.capitalize()}{metric}Alarm", about, count, above=0, periods=2, seconds=_MESSAGE_COMES_AGAIN
                )
        # What it cannot do it answers with 503, which is a success to Lambda.
        answers = _Metric(
            "AWS/Lambda", "Url5xxCount", "FunctionName", self._functions.by_name["control"].function.ref, "Sum"
        )
        about = "The control API answered with 5xx three times in five minutes"
        self._alarm("ControlAnswersAlarm", about, answers, above=2, seconds=_FIVE_MINUTES)
        reconciler = self._functions.by_name["reconcile"].function.ref
        rounds = _Metric("AWS/Lambda", "Invocations", "FunctionName", reconciler, "Sum")
        # The one alarm that must ring where data are missing: a rule that is disabled counts nothing. So it rings once when it
        # is made, until the first rounds are counted (docs/aws.md).
        self._alarm("ReconcileSilentAlarm", "The reconciler has not run for five minutes", rounds, below=1, periods=5)

    def _alarm(
        self,
        construct_id: str,
        description: str,
        metric: _Metric,
        *,
        above: int | None = None,
        below: int | None = None,
        periods: int = 1,
        seconds: int = _MINUTE,
    ) -> None:
        """So many periods of so many seconds in a row must be beyond the threshold."""
        cloudwatch.CfnAlarm(
            self._stack,
            construct_id,
            alarm_description=f"runvoy: {description}",
            namespace=metric.namespace,
            metric_name=metric.name,
            dimensions=[cloudwatch.CfnAlarm.DimensionProperty(name=metric.dimension, value=metric.of)],
            statistic=metric.statistic,
            period=seconds,
            evaluation_periods=periods,
            comparison_operator="GreaterThanThreshold" if above is not None else "LessThanThreshold",
            threshold=above if above is not None else below,
            treat_missing_data="notBreaching" if above is not None else "breaching",
            alarm_actions=[self.topic.topic_arn],
            ok_actions=[self.topic.topic_arn],
        )

    def _dashboard(self) -> None:
        dashboard = cloudwatch.Dashboard(self._stack, "Dashboard", default_interval=Duration.hours(3))
        ours = self._functions.by_name
        dashboard.add_widgets(
            _graph(
                "Accepted and refused", [self._own(aws_layout.METRIC_ACCEPTED), self._own(aws_layout.METRIC_REFUSED)]
            ),
            _graph("Started", [self._own(aws_layout.METRIC_STARTED)]),
        )
        dashboard.add_widgets(
            _graph(
                "Seconds in queues and for locks (p95)",
                [self._own(aws_layout.METRIC_QUEUE_AGE, "p95"), self._own(aws_layout.METRIC_LOCK_WAIT, "p95")],
            ),
            _graph(
                "Messages waiting",
                [
                    q.queue.metric_approximate_number_of_messages_visible(label=n)
                    for n, q in self._queues.by_name.items()
                ],
            ),
        )
        dashboard.add_widgets(
            _graph(
                "Repaired by the reconciler, and left for its next round",
                [
                    self._own(name)
                    for name in (aws_layout.METRIC_REPAIRS, aws_layout.METRIC_LEFT, aws_layout.METRIC_CORRECTED)
                ],
            ),
            _graph("Failed deliveries", [self._own(aws_layout.METRIC_FAILED_DELIVERIES)]),
        )
        dashboard.add_widgets(
            _graph(
                "Dead letters",
                [
                    q.dead_letters.metric_approximate_number_of_messages_visible(label=n)
                    for n, q in self._queues.by_name.items()
                ],
            ),
            _graph("Errors of functions", [_of(f.function.ref, "Errors", name, "Sum") for name, f in ours.items()]),
        )
        dashboard.add_widgets(
            _graph("Duration, ms (p95)", [_of(f.function.ref, "Duration", name, "p95") for name, f in ours.items()]),
            _graph(
                "Functions at once",
                [_of(f.function.ref, "ConcurrentExecutions", name, "Maximum") for name, f in ours.items()],
            ),
        )

    def _own(self, metric: str, statistic: str = "Sum") -> cloudwatch.MathExpression:
        """What the functions count, whatever dimensions they break it down by."""
        search = (
            f'SEARCH(\'Namespace="{aws_layout.METRICS_NAMESPACE}" MetricName="{metric}" '
            f"{aws_layout.DIMENSION_DEPLOYMENT}=\"{self._deployment_id}\"', '{statistic}', {_MINUTE})"
        )
        return cloudwatch.MathExpression(expression=search, label=metric, using_metrics={})


def _graph(title: str, metrics: list[cloudwatch.IMetric]) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, left=metrics, width=_WIDTH)


def _of(function: str, metric: str, label: str, statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="AWS/Lambda",
        metric_name=metric,
        dimensions_map={"FunctionName": function},
        statistic=statistic,
        label=label,
        period=Duration.minutes(1),
    )
