"""The service-linked role of ECS, which an account has once it used ECS. No stack can hold it, for it belongs to them all."""

from __future__ import annotations

from runvoy_infra.deploy.aws import DENIED, Aws, calling, code_of, message_of

SERVICE = "ecs.amazonaws.com"
ROLE = "AWSServiceRoleForECS"
_TAKEN = {"InvalidInput", "EntityAlreadyExists"}  # AWS says the first, others the second


def ensure(aws: Aws) -> str:
    """See that the role is there, before a cluster needs it: ECS makes it by itself for an account's first cluster, and then
    cannot assume it yet, so that the stack is rolled back.

    What was done, in words; empty if the role was there. Who may not see to it is told, and may go on: it may well be there.
    """
    from botocore.exceptions import ClientError

    with calling(f"looking for the role {ROLE}"):
        iam = aws.client("iam")
        try:
            iam.get_role(RoleName=ROLE)
        except ClientError as error:
            if code_of(error) in DENIED:
                return _unseen(error)
            if code_of(error) != "NoSuchEntity":
                raise
        else:
            return ""
        try:
            iam.create_service_linked_role(AWSServiceName=SERVICE)
        except ClientError as error:
            if code_of(error) in DENIED:
                return _unseen(error)
            if code_of(error) in _TAKEN:  # somebody else made it meanwhile
                return ""
            raise
    return f"made the role {ROLE}, which this account's first cluster needs"


def _unseen(error: Exception) -> str:
    return (
        f"could not see to the role {ROLE}: {message_of(error)}; if this account never used ECS, have an admin run "
        f"`aws iam create-service-linked-role --aws-service-name {SERVICE}`"
    )
