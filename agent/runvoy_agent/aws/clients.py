"""AWS clients, each made once, when it is first needed: loading a service's model takes longer than handling a delivery.

By botocore alone: boto3's resources and transfers are not used, and importing it takes time in every cold start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

_CONNECT_SECONDS = 3
_READ_SECONDS = 20
_ATTEMPTS = 4
_POOL = 32


class Credentials(NamedTuple):
    """Credentials to sign with, instead of those that the environment has."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


class Clients:
    """The clients of one set of credentials; threads may share them."""

    def __init__(
        self,
        *,
        region: str | None = None,
        credentials: Credentials | None = None,
        endpoints: Mapping[str, str] | None = None,
        tries: int = _ATTEMPTS,
    ) -> None:
        """`endpoints` are by service; without one the environment's (AWS_ENDPOINT_URL…), or else AWS itself. Each call is made
        `tries` times at most, with pauses of half a second, one, two… on average between them."""
        self._region = region
        self._credentials = credentials
        self._endpoints = endpoints or {}
        self._tries = tries
        self._lock = threading.Lock()
        self._session: Any = None
        self._made: dict[tuple[str, int], Any] = {}

    def get(self, service: str, *, tries: int | None = None) -> Any:
        """The client of a service, which makes each call so many times at most; None: as often as the others."""
        tries = tries or self._tries
        wanted = service, tries
        made = self._made.get(wanted)
        if made is None:
            with self._lock:  # making clients is not safe in several threads
                made = self._made.get(wanted) or self._make(service, tries)
                self._made[wanted] = made
        return made

    @property
    def region(self) -> str:
        """The region of the clients."""
        return str(self.get("sts").meta.region_name)

    def _make(self, service: str, tries: int) -> Any:
        import botocore.config
        import botocore.session

        from runvoy_agent.aws.models import QuickLoader

        if self._session is None:
            self._session = botocore.session.get_session()
            self._session.register_component("data_loader", QuickLoader())
        endpoint = self._endpoints.get(service)
        # A new bucket's name leads to another region's address for a while, unless the address names the region.
        style = "path" if endpoint or self._session.get_config_variable("endpoint_url") else "virtual"
        config = botocore.config.Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": tries},
            max_pool_connections=_POOL,
            tcp_keepalive=True,
            # What is given is not made anew for each call: that is a twentieth of its CPU. And CloudTrail shows who called.
            user_agent=f"runvoy {self._session.user_agent()}",
            # Its own check of every parameter's type is a tenth of a delivery's CPU; ours are typed, and tested on servers.
            parameter_validation=False,
            signature_version="s3v4" if service == "s3" else None,
            s3={"addressing_style": style, "us_east_1_regional_endpoint": "regional"},
        )
        keys = (
            {}
            if self._credentials is None
            else {
                "aws_access_key_id": self._credentials.access_key_id,
                "aws_secret_access_key": self._credentials.secret_access_key,
                "aws_session_token": self._credentials.session_token,
            }
        )
        return self._session.create_client(
            service, region_name=self._region, endpoint_url=endpoint, config=config, **keys
        )
