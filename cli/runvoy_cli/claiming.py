"""From a claim token to a key on this machine, and a configuration that uses it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from runvoy_cli import config, new_keys
from runvoy_cli.cache import Cache
from runvoy_cli.client import Client, Target
from runvoy_cli.files import told_about
from runvoy_cli.transport import Transport
from runvoy_protocol.claims import Token
from runvoy_protocol.members import ClaimAnswer


def redeem(home: Path, profile: str | None, token: Token, url: str, transport: Transport, limit: float) -> ClaimAnswer:
    """Make a key, register its public half with the token at `url`, and write config.yaml. Whoever is cut off in between
    does the same again and goes on with the same key."""
    from runvoy_cli import config_file

    with new_keys.pending(home, f"claim {hashlib.sha256(token.secret).hexdigest()}") as key:
        target = Target(url, token.deployment_id, key)
        client = Client(target, lambda of: Cache(home, of.endpoint, of.signing_key.key_id), transport, limit)
        answer = client.claim(token.secret)
        changed = {"endpoint": url, "deployment_id": token.deployment_id, "api_key": key.to_api_key()}
        with told_about(home):
            config_file.save(home / config.CONFIG_NAME, profile, changed)
    return answer
