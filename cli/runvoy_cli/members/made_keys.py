"""Which keys a key made: they outlive its revocation."""

from __future__ import annotations

from runvoy_cli.deployment.client import Client
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import KeyAnswer, KeysAnswer


class MadeKeys:
    """Read when they are asked for, so that no revocation waits for it; but `of_own_first` reads the caller's own at once, for
    whoever revokes the key in use can ask nothing more afterwards."""

    def __init__(self, client: Client, *, of_own_first: bool) -> None:
        self._client = client
        self._by_user: dict[str, tuple[KeyAnswer, ...]] = {}
        own = self._ask(None) if of_own_first else ()
        if own:
            self._by_user[own[0].user] = own

    def by(self, key: KeyAnswer) -> list[str]:
        """The ids of its user's keys that are good and that it made, oldest first; what those made is not in it."""
        keys = self._by_user.get(key.user)
        if keys is None:
            keys = self._by_user[key.user] = self._ask(key.user)
        now = self._client.now()
        return [
            one.key_id
            for one in keys
            if one.made_by == key.key_id and one.revoked_at is None and (one.expires_at is None or one.expires_at > now)
        ]

    def by_own(self, key_id: str) -> list[str]:
        """The same for a key of the caller's own, before it is revoked."""
        keys = (one for of_user in self._by_user.values() for one in of_user)
        return [made for one in keys if one.key_id == key_id for made in self.by(one)]

    def _ask(self, user: str | None) -> tuple[KeyAnswer, ...]:
        try:
            answer = self._client.ask(KeysAnswer, "GET", "/keys", query=None if user is None else {"user": user})
        except RunvoyError as error:
            # A limited key knows of none but itself, and one that has just revoked itself of nothing more.
            if error.code not in (ErrorCode.FORBIDDEN, ErrorCode.KEY_REVOKED):
                raise
            return ()
        return answer.keys
