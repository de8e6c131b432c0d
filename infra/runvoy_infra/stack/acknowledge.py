"""Findings of cdk-nag that are as they should be, each with its reason."""

from __future__ import annotations

import aws_cdk
from constructs import IConstruct


class Acknowledge:
    """Takes a rule of cdk-nag off one construct; keeps what was taken off, so that a test can read the reasons."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    def __call__(self, construct: IConstruct, rule: str, reason: str) -> None:
        aws_cdk.Validations.of(construct).acknowledge(aws_cdk.Acknowledgment(id=rule, reason=reason))
        self.made.append((rule, reason))
