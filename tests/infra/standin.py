"""Functions in the place of runvoy's own, for tests of the stack around them: what invokes them, and what they may do."""

import json
import os

import botocore.session
from botocore.exceptions import ClientError


def control_function(event, context):
    if set(event) == {"seed_admin"}:
        user = event["seed_admin"]["user"]
        if user == "refused@example.com":
            error = {"code": "CONFLICT", "message": "is a viewer", "hint": "Change the role."}
            return {"error": error}
        has_key = user == "known@example.com" and not event["seed_admin"]["further_key"]
        secret, expires_at = (None, None) if has_key else ("A" * 43 + "=", "2030-01-31T09:15:00Z")
        return {"user": user, "secret": secret, "expires_at": expires_at}
    return {"statusCode": 200, "body": json.dumps({"status": "ok"})}


def inbox_function(event, context):
    """Answer each object of the inbox with what came of trying things with the function's own role."""
    s3 = botocore.session.get_session().create_client("s3")
    for message in event["Records"]:
        for record in json.loads(message["body"]).get("Records", ()):
            place = {"Bucket": record["s3"]["bucket"]["name"], "Key": record["s3"]["object"]["key"]}
            version = record["s3"]["object"]["versionId"]
            data = s3.get_object(**place, VersionId=version)["Body"].read()
            told = {
                "data": data.decode(),
                "staging": _tried(
                    s3.put_object, Bucket=os.environ["RUNVOY_STAGING_BUCKET"], Key="payloads/x", Body=b"x"
                ),
                "inbox": _tried(s3.put_object, **place, Body=b"x"),
                "missing": _tried(s3.get_object, Bucket=os.environ["RUNVOY_OUTBOX_BUCKET"], Key="receipts/none"),
            }
            s3.put_object(
                Bucket=os.environ["RUNVOY_OUTBOX_BUCKET"], Key="receipts/answer.json", Body=json.dumps(told).encode()
            )
    return {"batchItemFailures": []}


def _tried(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "done"


def starts_function(event, context):
    return {"batchItemFailures": []}


ends_function = reconcile_function = starts_function
