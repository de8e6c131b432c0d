"""Which deployment a client talks to, and as whom."""

from __future__ import annotations

from typing import NamedTuple

from runvoy_protocol.keys import SigningKey


class Target(NamedTuple):
    """Which deployment, and as whom. `public_endpoint`: where others reach it, if that is not where this client does."""

    endpoint: str
    deployment_id: str
    signing_key: SigningKey
    public_endpoint: str = ""
