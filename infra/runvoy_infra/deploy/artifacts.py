"""The artifacts bucket: where CloudFormation takes template and code from. It is no part of any stack."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from runvoy_infra.deploy.aws import Aws, calling, code_of, message_of
from runvoy_protocol.errors import ErrorCode, RunvoyError

_GONE = ("404", "NoSuchBucket", "NotFound", "NoSuchKey")


class Artifacts:
    """A bucket of this account and region. Objects are named by the SHA-256 of their content, and never change."""

    def __init__(self, aws: Aws, account: str, bucket: str | None = None) -> None:
        self._aws = aws
        self._account = account
        self.bucket = bucket or f"runvoy-artifacts-{account}-{aws.region}"
        self._is_ours = bucket is None

    def prepare(self) -> bool:
        """Adopt the bucket, or make it; whether it was made. A bucket of that name in another account is refused."""
        if self._is_there():
            return False
        if not self._is_ours:
            raise RunvoyError(
                ErrorCode.NOT_FOUND,
                f"there is no bucket {self.bucket} (the parameter CodeBucket)",
                "Leave CodeBucket out to have one made.",
            )
        s3 = self._s3
        place: dict[str, Any] = {}
        if self._aws.region != "us-east-1":
            place["CreateBucketConfiguration"] = {"LocationConstraint": self._aws.region}
        with calling(f"making the artifacts bucket {self.bucket}"):
            s3.create_bucket(Bucket=self.bucket, **place)
            s3.put_public_access_block(
                Bucket=self.bucket,
                PublicAccessBlockConfiguration=dict.fromkeys(
                    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
                ),
            )
            s3.put_bucket_policy(Bucket=self.bucket, Policy=json.dumps(self._only_over_tls()))
        return True

    def upload(self, kind: str, suffix: str, data: bytes, content_type: str) -> tuple[str, bool]:
        """The object's key, and whether it had to be uploaded."""
        digest = hashlib.sha256(data)
        object_key = f"runvoy/{kind}/{digest.hexdigest()}{suffix}"
        if self._size_of(object_key) == len(data):
            return object_key, False
        with calling(f"uploading to the artifacts bucket {self.bucket}"):
            self._s3.put_object(
                Bucket=self.bucket,
                Key=object_key,
                Body=data,
                ContentType=content_type,
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                ExpectedBucketOwner=self._account,
            )
        return object_key, True

    def url(self, object_key: str) -> str:
        """As CloudFormation takes it; by the endpoint's path where S3 is not AWS's own."""
        endpoint = str(self._s3.meta.endpoint_url)
        scheme, _, host = endpoint.partition("://")
        if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return f"{scheme}://{self.bucket}.{host}/{object_key}"
        return f"{endpoint}/{self.bucket}/{object_key}"

    def _is_there(self) -> bool:
        from botocore.exceptions import ClientError

        with calling(f"looking for the artifacts bucket {self.bucket}"):
            try:
                self._s3.head_bucket(Bucket=self.bucket, ExpectedBucketOwner=self._account)
            except ClientError as error:
                if code_of(error) in _GONE:
                    return False
                if code_of(error) == "403":
                    raise RunvoyError(
                        ErrorCode.FORBIDDEN,
                        f"the bucket {self.bucket} cannot be used: it belongs to another account, or you may not see it "
                        f"({message_of(error)})",
                        "Choose another with --parameter CodeBucket=NAME, or use credentials with the rights that docs/aws.md lists.",
                    ) from error
                raise
        return True

    def _size_of(self, object_key: str) -> int | None:
        from botocore.exceptions import ClientError

        with calling(f"looking into the artifacts bucket {self.bucket}"):
            try:
                head = self._s3.head_object(Bucket=self.bucket, Key=object_key, ExpectedBucketOwner=self._account)
            except ClientError as error:
                if code_of(error) in _GONE:
                    return None
                raise
        return int(head["ContentLength"])

    def _only_over_tls(self) -> dict[str, Any]:
        arn = f"arn:{self._partition}:s3:::{self.bucket}"
        statement = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, f"{arn}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        return {"Version": "2012-10-17", "Statement": [statement]}

    @property
    def _partition(self) -> str:
        return str(self._s3.meta.partition)

    @property
    def _s3(self) -> Any:
        return self._aws.client("s3")
