"""From a claim token to a key on this machine, and a configuration that uses it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.target import Target
from runvoy_cli.home import config
from runvoy_cli.home.cache import Cache
from runvoy_cli.home.files import told_about
from runvoy_cli.http.transport import Transport
from runvoy_cli.members import new_keys
from runvoy_protocol.claims import Token
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import ClaimAnswer

_PAUSE_SECONDS = 1.0


def redeem(
    home: Path,
    profile: str | None,
    token: Token,
    url: str,
    transport: Transport,
    limit: float,
    *,
    patience_seconds: float = 0,
) -> ClaimAnswer:
    """Make a key, register its public half with the token at `url`, and write config.yaml. Whoever is cut off in between
    does the same again and goes on with the same key. An address that does not answer is tried again for `patience_seconds`:
    one that was made a moment ago may not be known to DNS yet."""
    from runvoy_cli.home import config_file

    with new_keys.pending(home, f"claim {hashlib.sha256(token.secret).hexdigest()}") as key:
        target = Target(url, token.deployment_id, key)
        client = Client(target, lambda of: Cache(home, of.endpoint, of.signing_key.key_id), transport, limit)
        answer = _claim(client, token, time.monotonic() + patience_seconds)
        changed = {"endpoint": url, "deployment_id": token.deployment_id, "api_key": key.to_api_key()}
        with told_about(home):
            config_file.save(home / config.CONFIG_NAME, profile, changed)
    return answer


def _claim(client: Client, token: Token, until: float) -> ClaimAnswer:
    while True:
        try:
            return client.claim(token.secret)
        except RunvoyError as error:
            if error.code is not ErrorCode.UNAVAILABLE or time.monotonic() + _PAUSE_SECONDS > until:
                raise
        time.sleep(_PAUSE_SECONDS)
