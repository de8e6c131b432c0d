"""The alarms: that they ring when they should, and that the docs say what to do then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FUNCTIONS = ("Inbox", "Starts", "Ends", "Control", "Reconcile")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("metric", ["Errors", "Throttles"])
def test_a_function_that_fails_one_message_again_and_again_rings(name, metric, template):
    """With nothing else to do it fails once in a visibility timeout, and each period of the alarm has to hold a failure."""
    alarm = template.properties(f"{name}{metric}Alarm")
    between = template.properties(template.named("StartsQueue", "AWS::SQS::Queue"))["VisibilityTimeout"]
    assert (alarm["Statistic"], alarm["Threshold"]) == ("Sum", 0)
    assert alarm["Period"] > between
    assert alarm["EvaluationPeriods"] == 2  # a failure that a second try mends is none


def test_failures_of_the_control_api_ring(template):
    """The function answers with 503 what the table or a queue refuses, which is no error of the function to Lambda."""
    alarm = template.properties("ControlAnswersAlarm")
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/Lambda", "Url5xxCount")
    assert alarm["Dimensions"] == [{"Name": "FunctionName", "Value": {"Ref": "ControlFunction"}}]
    assert alarm["TreatMissingData"] == "notBreaching"


def test_every_alarm_is_told_of_in_the_docs_and_paid_for_in_their_costs(template):
    page = (Path(__file__).parents[2] / "docs" / "aws.md").read_text()
    table = page.partition("## What to watch")[2].partition("\n## ")[0]
    endings = [name.lstrip("…") for name in re.findall(r"^\| `(…?\w+Alarm)`", table, re.MULTILINE)]
    alarms = template.of_type("AWS::CloudWatch::Alarm")
    assert not [name for name in alarms if not name.endswith(tuple(endings))]
    assert not [ending for ending in endings if not any(name.endswith(ending) for name in alarms)]
    assert f"| alarms | {len(alarms)} × $0.10 |" in page
    topic = {"Ref": template.named("Alarms", "AWS::SNS::Topic")}
    for one in alarms.values():
        assert one["Properties"]["AlarmActions"] == one["Properties"]["OKActions"] == [topic]


def test_only_the_reconcilers_silence_rings_where_data_are_missing(template):
    breaching = [
        name
        for name, alarm in template.of_type("AWS::CloudWatch::Alarm").items()
        if alarm["Properties"]["TreatMissingData"] == "breaching"
    ]
    assert breaching == ["ReconcileSilentAlarm"]
