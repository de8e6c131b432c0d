"""The Objects port on an S3 bucket."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling, code_of, status_of
from runvoy_agent.aws.presigning import Presigner
from runvoy_agent.ports import ObjectInfo, PostPolicy, PreconditionFailed, StoredObject
from runvoy_protocol import object_keys

_PAGE = 1000
_CONFLICT_TRIES = 5
_CONFLICT_PAUSE_SECONDS = 0.05
# Of a version: one that never was, one that is a delete marker, and what is no version at all.
_NO_VERSION = frozenset({"NoSuchVersion", "MethodNotAllowed", "InvalidArgument"})


class S3Objects:
    """One bucket. Versions are those of S3; where the bucket is not versioned a version is empty.

    A put whose answer was lost is sent again and may then meet what it has itself written: PreconditionFailed says that
    the object is there, not who wrote it.
    """

    def __init__(self, clients: Clients, bucket: str, presigner: Presigner) -> None:
        self._clients = clients
        self._bucket = bucket
        self._presigner = presigner

    def put(
        self,
        object_key: str,
        data: bytes,
        *,
        content_type: str,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> str:
        object_keys.split(object_key)
        conditions = {"IfNoneMatch": "*"} if if_absent else {} if if_match is None else {"IfMatch": if_match}
        request = {"Bucket": self._bucket, "Key": object_key, "Body": data, **conditions}
        if content_type:
            request["ContentType"] = content_type
        with calling(f"writing {object_key}"):
            return self._put(request, conditional=bool(conditions))

    def _put(self, request: dict[str, Any], *, conditional: bool) -> str:
        """409 is another conditional write under way, which may yet fail: then ours would have been right."""
        for tried in range(1, _CONFLICT_TRIES + 1):
            try:
                etag: str = self._client.put_object(**request)["ETag"]
            except ClientError as error:
                if not conditional or status_of(error) not in (404, 409, 412) or code_of(error) == "NoSuchBucket":
                    raise
                if status_of(error) != 409 or tried == _CONFLICT_TRIES:
                    raise PreconditionFailed(f"{request['Key']} is there, gone, or another than expected") from error
                time.sleep(random.random() * _CONFLICT_PAUSE_SECONDS * 2**tried)  # noqa: S311 - spreads tries
            else:
                return etag
        raise AssertionError("the last try returns or raises")

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        object_keys.split(object_key)
        if version == "":
            return None
        request = {"Bucket": self._bucket, "Key": object_key} | ({} if version is None else {"VersionId": version})
        with calling(f"reading {object_key}"):
            try:
                answer = self._client.get_object(**request)
                data: bytes = answer["Body"].read()
            except ClientError as error:
                if code_of(error) == "NoSuchKey" or (version is not None and code_of(error) in _NO_VERSION):
                    return None
                raise
        return StoredObject(data, answer["ETag"], answer.get("VersionId", ""))

    def list(
        self, prefix: str, *, after: str | None = None, up_to: str | None = None, limit: int = 1000
    ) -> Sequence[ObjectInfo]:
        """As the port says: a call for each thousand, and one at least. S3 knows no end of a range, so the last of them may have
        listed what is past it."""
        object_keys.check_prefix(prefix)
        found: list[ObjectInfo] = []
        place = {"StartAfter": after} if after else {}
        while len(found) < limit:
            page_size = min(_PAGE, limit - len(found))
            with calling(f"listing {prefix}"):
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=page_size, **place)
            listed = answer.get("Contents", ())
            found += [
                ObjectInfo(item["Key"], item["Size"], item["LastModified"])
                for item in listed
                if up_to is None or item["Key"] <= up_to
            ]
            is_past = up_to is not None and listed and listed[-1]["Key"] > up_to
            if is_past or not answer.get("IsTruncated"):
                break
            place = {"ContinuationToken": answer["NextContinuationToken"]}
        return found

    def delete(self, object_key: str) -> None:
        """In a versioned bucket the versions stay readable by their ids."""
        object_keys.split(object_key)
        with calling(f"deleting {object_key}"):
            self._client.delete_object(Bucket=self._bucket, Key=object_key)

    def presign_post(self, key_prefix: str, *, content_type: str, max_bytes: int, expires_at: datetime) -> PostPolicy:
        """As the port says. The policy ends no later than the credentials that sign it, an hour from now."""
        object_keys.check_prefix(key_prefix)
        return self._presigner.post(
            self._bucket, key_prefix, content_type=content_type, max_bytes=max_bytes, expires_at=expires_at
        )

    def presign_get(self, object_key: str, *, expires_at: datetime) -> str:
        """As the port says. The URL ends no later than the credentials that sign it, an hour from now."""
        object_keys.split(object_key)
        return self._presigner.get(self._bucket, object_key, expires_at=expires_at)

    def presign_gets(self, keys: Sequence[str], *, expires_at: datetime) -> Sequence[str]:
        for object_key in keys:
            object_keys.split(object_key)
        return self._presigner.gets(self._bucket, keys, expires_at=expires_at)

    def presign_take(self, object_key: str, *, expires_at: datetime) -> tuple[str, str]:
        """Two URLs, one that reads the object and one that deletes it; they end as those of presign_get."""
        object_keys.split(object_key)
        return self._presigner.take(self._bucket, object_key, expires_at=expires_at)

    @property
    def _client(self) -> Any:
        return self._clients.get("s3")
