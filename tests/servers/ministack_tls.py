"""MiniStack as a whole deployment needs it: the stack's buckets and queues refuse what does not come over TLS."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.servers.ministack import HEALTH, REGION, REQUIREMENT, environment
from tests.servers.processes import free_ports, installed, running


class MiniStackTls:
    """A running server. `environment` is that of an admin with an IAM user's keys, who may do everything."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.certificate = certificate
        root = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self._root = boto3.Session(region_name=REGION, **root)
        self.environment = self.user("admin", ["*"])

    def user(self, name: str, actions: list[str]) -> dict[str, str]:
        """A new IAM user who may do that, as the environment of a process."""
        iam = self._root.client("iam", endpoint_url=self.url, verify=str(self.certificate))
        iam.create_user(UserName=name)
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CA_BUNDLE": str(self.certificate),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str) -> Any:
        keys = {
            "aws_access_key_id": self.environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.environment["AWS_SECRET_ACCESS_KEY"],
        }
        session = boto3.Session(region_name=REGION, **keys)
        return session.client(service, endpoint_url=self.url, verify=str(self.certificate))


_OF_NO_RESOURCE = {"ssm:GetParametersByPath", "ssm:DeleteParameters"}


def as_it_takes_it(template: dict[str, Any]) -> dict[str, Any]:
    """The template with numbers for the concurrency of event sources: of a parameter MiniStack 1.5.33 makes a text, and then
    compares it with a number. And whoever may find or delete some parameters may those of all: it knows no resources for that,
    where AWS judges by the path that is listed, and by the parameters that are deleted."""
    taken: dict[str, Any] = json.loads(json.dumps(template))
    for resource in taken["Resources"].values():
        if resource["Type"] == "AWS::Lambda::EventSourceMapping":
            scaling = resource["Properties"]["ScalingConfig"]
            scaling["MaximumConcurrency"] = taken["Parameters"][scaling["MaximumConcurrency"]["Ref"]]["Default"]
        if resource["Type"] == "AWS::IAM::Policy":
            statements = resource["Properties"]["PolicyDocument"]["Statement"]
            actions = {action for statement in statements for action in statement["Action"]}
            if widened := sorted(_OF_NO_RESOURCE & actions):
                statements.append({"Effect": "Allow", "Action": widened, "Resource": "*"})
    return taken


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key. The stack's buckets and queues refuse what does not come over TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "certificate.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


@contextmanager
def ministack_tls(cache: Path, folder: Path) -> Iterator[MiniStackTls]:
    """The server, with its state in `folder`."""
    program = installed(cache, REQUIREMENT) / "ministack"
    (port,) = free_ports(1)
    certificate, private = make_certificate(folder)
    told = environment(port, folder) | {
        "USE_SSL": "1",
        "MINISTACK_SSL_CERT": str(certificate),
        "MINISTACK_SSL_KEY": str(private),
    }
    trusting = ssl.create_default_context(cafile=str(certificate))
    with running([str(program)], folder, f"https://127.0.0.1:{port}{HEALTH}", told, trusting=trusting):
        yield MiniStackTls(port, certificate)
