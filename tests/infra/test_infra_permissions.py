"""The functions' policies, held against AWS's Service Authorization Reference as cfn-lint carries it: what no emulator enforces."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import pytest

ARNS = {
    "AWS::DynamoDB::Table": "arn:aws:dynamodb:eu-west-1:123456789012:table/{name}",
    "AWS::ECS::Cluster": "arn:aws:ecs:eu-west-1:123456789012:cluster/{name}",
    "AWS::IAM::Role": "arn:aws:iam::123456789012:role/{name}",
    "AWS::KMS::Key": "arn:aws:kms:eu-west-1:123456789012:key/{name}",
    "AWS::Logs::LogGroup": "arn:aws:logs:eu-west-1:123456789012:log-group:{name}:*",
    "AWS::S3::Bucket": "arn:aws:s3:::{name}",
    "AWS::SQS::Queue": "arn:aws:sqs:eu-west-1:123456789012:{name}",
}
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/runvoy/00000000-0000-0000-0000-000000000000",
}
# Bound by a condition on the cluster: the reference names container instances, which tasks on Fargate have none of.
BY_CONDITION = {"ecs:listtasks"}
# Where cfn-lint leaves more open than the reference's own pages do.
NARROWER = {
    ("dynamodb", "index"): "arn:${Partition}:dynamodb:${Region}:${Account}:table/[^/]+/index/.*",
    ("dynamodb", "table"): "arn:${Partition}:dynamodb:${Region}:${Account}:table/[^/]+",
    ("ecs", "task-definition"): "arn:${Partition}:ecs:${Region}:${Account}:task-definition/.*",
    ("logs", "log-stream"): "arn:${Partition}:logs:${Region}:${Account}:log-group:.*:log-stream:.*",
    ("s3", "bucket"): "arn:${Partition}:s3:::[^/]+",
    ("s3", "object"): "arn:${Partition}:s3:::[^/]+/.*",
}
# What a `*` in an ARN may stand for.
FILLERS = ("x", "log-stream:x")


class Arns:
    """The ARNs that a template's expressions come to."""

    def __init__(self, template: Any) -> None:
        self._template = template

    def of(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.of(one) for one in value]
        if not isinstance(value, dict):
            return value
        ((function, argument),) = value.items()
        if function == "Ref":
            if argument == "TaskRoleArns":
                return [ARNS["AWS::IAM::Role"].format(name="given")]
            return PSEUDO.get(argument, argument)
        if function == "Fn::GetAtt":
            return ARNS[self._template.resources[argument[0]]["Type"]].format(name=argument[0])
        if function == "Fn::Join":
            return str(argument[0]).join(self.of(argument[1]))
        if function == "Fn::Select":
            return self.of(argument[1])[int(argument[0])]
        assert function == "Fn::Split", function
        return self.of(argument[1]).split(argument[0])


def flat(value: Any) -> list[str]:
    return [one for part in value for one in flat(part)] if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """Of each service, in lower case: which resources an action knows, and what their ARNs look like."""
    path = resources.files("cfnlint") / "data" / "AdditionalSpecs" / "Policies.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def formats_of(reference: dict[str, Any], service: str, kind: str) -> list[str]:
    narrower = NARROWER.get((service, kind))
    found: list[str] = [narrower] if narrower else reference[service]["Resources"][kind]["ARNFormats"]
    return found


def matches(arn: str, formats: list[str]) -> bool:
    expressions = [re.sub(r"\$\{\w+\}", "[^:]*", one) for one in formats]
    texts = [arn.replace("*", filler) for filler in FILLERS]
    return any(re.fullmatch(expression, text) for expression in expressions for text in texts)


def test_every_action_is_allowed_on_resources_that_it_knows(template: Any, reference: dict[str, Any]) -> None:
    """An action on an ARN of another kind is allowed nothing, and only AWS would say so."""
    arns, looked_at = Arns(template), 0
    for name, policy in template.of_type("AWS::IAM::Policy").items():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            allowed = flat([arns.of(statement["Resource"])])
            used: set[str] = set()
            for action in flat([statement["Action"]]):
                service, _, operation = action.lower().partition(":")
                known = reference[service]["Actions"].get(operation)
                assert known is not None, f"{name}: there is no action {action}"
                kinds = known.get("Resources", [])
                if not kinds or f"{service}:{operation}" in BY_CONDITION:
                    assert allowed == ["*"], f"{name}: {action} knows no resources"
                    continue
                formats = [one for kind in kinds for one in formats_of(reference, service, kind)]
                fitting = {arn for arn in allowed if arn != "*" and matches(arn, formats)}
                assert fitting, (
                    f"{name}: {action} is allowed on none of its own resources ({', '.join(kinds)}): {allowed}"
                )
                used |= fitting
                looked_at += 1
            assert used in (set(), set(allowed)), (
                f"{name}: no action of {statement['Action']} is one on {set(allowed) - used}"
            )
    assert looked_at > 60


def test_a_roles_policies_fit_with_room_for_the_roles_of_images(template: Any) -> None:
    """IAM takes 10,240 characters of a role's inline policies together, without white space; names of resources are some 30 longer
    than here, and twenty roles of images some 1,500."""
    arns = Arns(template)
    sizes: dict[str, int] = {}
    for policy in template.of_type("AWS::IAM::Policy").values():
        statements = [
            {**statement, "Resource": arns.of(statement["Resource"])}
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        ]
        (role,) = policy["Properties"]["Roles"]
        sizes[role["Ref"]] = sizes.get(role["Ref"], 0) + len(json.dumps(statements, separators=(",", ":")))
    assert len(sizes) == 7
    assert max(sizes.values()) < 7_000
