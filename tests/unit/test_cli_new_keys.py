"""A key that is being registered survives whatever cuts that off, and nothing of it stays once it is done."""

import pytest

from runvoy_cli.members import new_keys
from runvoy_protocol.errors import ErrorCode, RunvoyError


def left_in(home):
    return [path.read_text() for path in (home / "pending_keys").glob("*")]


def test_a_key_is_on_disk_before_anything_is_done_with_it_and_gone_after(tmp_path):
    with new_keys.pending(tmp_path, "claim x") as key:
        (text,) = left_in(tmp_path)
        assert key.to_api_key() in text
        (path,) = (tmp_path / "pending_keys").glob("*")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "cut", [KeyboardInterrupt(), RunvoyError(ErrorCode.UNAVAILABLE, "no answer"), OSError("disk full")]
)
def test_whoever_is_cut_off_goes_on_with_the_same_key(tmp_path, cut):
    with pytest.raises(type(cut)), new_keys.pending(tmp_path, "claim x") as first:
        raise cut
    with new_keys.pending(tmp_path, "claim x") as second:
        assert second.key_id == first.key_id
    with new_keys.pending(tmp_path, "claim x") as third:
        assert third.key_id != first.key_id


def test_what_the_deployment_refused_for_good_is_forgotten(tmp_path):
    with pytest.raises(RunvoyError), new_keys.pending(tmp_path, "claim x"):
        raise RunvoyError(ErrorCode.NOT_FOUND, "wrong token")
    assert left_in(tmp_path) == []


def test_a_damaged_file_is_replaced(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_keys.pending(tmp_path, "claim x"):
        raise KeyboardInterrupt
    (path,) = (tmp_path / "pending_keys").glob("*")
    path.write_bytes(path.read_bytes()[:20])
    with new_keys.pending(tmp_path, "claim x") as key:
        assert key.to_api_key() in left_in(tmp_path)[0]


def test_what_a_key_was_made_for_is_known_until_it_is_done(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_keys.pending(tmp_path, "old-key") as key:
        raise KeyboardInterrupt
    assert new_keys.unfinished_purpose(tmp_path, key) == "old-key"
    assert new_keys.unfinished_purpose(tmp_path, new_keys.make()) is None
    new_keys.forget(tmp_path, "old-key")
    assert new_keys.unfinished_purpose(tmp_path, key) is None
