"""runvoy's own vectors (tests/golden/vectors.json): our code, a second Ed25519 and WebCrypto all say what is written."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from runvoy_protocol import control, ids, keys, requests
from runvoy_protocol.codec import MAX_ENVELOPE_BYTES
from runvoy_protocol.envelope import PayloadType, pae, parse, verified_payload
from runvoy_protocol.errors import ErrorCode, RunvoyError

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS: dict[str, Any] = json.loads((GOLDEN / "vectors.json").read_text())
ENVELOPES: list[dict[str, Any]] = VECTORS["envelopes"]
KEY_ID: str = VECTORS["key"]["key_id"]
SEED = bytes.fromhex(VECTORS["key"]["seed"])
PUBLIC_KEY = bytes.fromhex(VECTORS["key"]["public_key"])
NODE_WITH_ED25519 = 20


def answer_of(vector: dict[str, Any]) -> str:
    """What a deployment that knows the key says to these bytes."""
    kind = PayloadType(vector["payload_type"])
    most = control.MAX_AUTHORIZATION_BYTES if kind is PayloadType.CONTROL else MAX_ENVELOPE_BYTES
    try:
        sealed = parse(bytes.fromhex(vector["envelope"]), kind, most)
        payload = verified_payload(sealed, KEY_ID, PUBLIC_KEY)
        if kind is PayloadType.RUN_REQUEST:
            assert requests.encode(requests.decode(payload)) == payload
        elif kind is PayloadType.CONTROL:
            control.decode_call(payload)
    except RunvoyError as error:
        return error.code.value
    return "OK"


def test_there_are_enough_of_them_and_each_has_a_name() -> None:
    assert len(ENVELOPES) >= 200
    assert len({vector["what"] for vector in ENVELOPES}) == len(ENVELOPES)
    per_type = Counter(vector["payload_type"] for vector in ENVELOPES)
    assert per_type.keys() == {kind.value for kind in PayloadType}
    assert {vector["answer"] for vector in ENVELOPES} == {"OK", "INVALID_REQUEST", "SIGNATURE_INVALID", "TOO_LARGE"}
    names = {vector["what"] for vector in ENVELOPES}
    for kind, schema in (("run request", requests.RunRequest), ("control", control.ControlCall)):
        for field in schema.__struct_fields__:
            assert f"{kind}: {field}: changed after signing" in names


def test_the_file_is_what_its_script_makes() -> None:
    spec = importlib.util.spec_from_file_location("golden_vectors", GOLDEN / "vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden_vectors"] = module
    spec.loader.exec_module(module)
    assert module.text() == (GOLDEN / "vectors.json").read_text(), "run `just vectors`, on purpose only"


def test_our_code_gives_the_answer() -> None:
    assert {vector["what"]: answer_of(vector) for vector in ENVELOPES} == {
        vector["what"]: vector["answer"] for vector in ENVELOPES
    }


def test_another_library_agrees_on_every_signature() -> None:
    public_key = Ed25519PublicKey.from_public_bytes(PUBLIC_KEY)
    found: Counter[bool] = Counter()
    for vector in ENVELOPES:
        if vector["is_signed"] is None:
            continue
        _, kind, payload, signers = msgspec.msgpack.decode(bytes.fromhex(vector["envelope"]))
        signature = next(signature for key_id, signature in signers if key_id == KEY_ID)
        signed = f"DSSEv1 {len(kind.encode())} {kind} {len(payload)} ".encode() + payload
        try:
            public_key.verify(signature, signed)
            is_signed = True
        except InvalidSignature:
            is_signed = False
        assert is_signed is vector["is_signed"], vector["what"]
        assert keys.is_signed_by(signed, signature, PUBLIC_KEY) is is_signed, vector["what"]
        found[is_signed] += 1
    assert min(found[True], found[False]) >= 70, found


def test_webcrypto_agrees() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < NODE_WITH_ED25519:
        pytest.skip(f"node {version} has no Ed25519 in WebCrypto")
    done = subprocess.run([node, str(GOLDEN / "vectors.mjs")], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["signatures"] == sum(vector["is_signed"] is not None for vector in ENVELOPES)
    assert report["failures"] == 0


@pytest.mark.parametrize("vector", VECTORS["api_keys"], ids=lambda vector: repr(vector["text"])[:24])
def test_api_keys(vector: dict[str, Any]) -> None:
    if vector["public_key"] is None:
        with pytest.raises(RunvoyError) as caught:
            keys.SigningKey.from_api_key(vector["text"])
        assert caught.value.code is ErrorCode.INVALID_REQUEST
        return
    key = keys.SigningKey.from_api_key(vector["text"])
    assert key.public_key.hex() == vector["public_key"]
    raw = base64.urlsafe_b64decode(vector["text"].strip()[5:])
    assert binascii.crc32(raw[:32]) == int.from_bytes(raw[32:], "big")


@pytest.mark.parametrize("vector", VECTORS["odd_keys"], ids=lambda vector: vector["what"])
def test_odd_keys_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(RunvoyError) as caught:
        keys.check_public_key(bytes.fromhex(vector["public_key"]))
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_what_is_derived() -> None:
    for vector in VECTORS["key_ids"]:
        digest = hashlib.sha256(bytes.fromhex(vector["public_key"])).digest()
        assert keys.key_id_of(bytes.fromhex(vector["public_key"])) == vector["key_id"]
        assert base64.b32decode(vector["key_id"].upper()) == digest[:20]
    for vector in VECTORS["pae"]:
        assert pae(vector["type"], bytes.fromhex(vector["payload"])).hex() == vector["pae"]
    for vector in VECTORS["uuid8"]:
        assert keys.SigningKey(bytes(range(32))).id_of(vector["text"]) == vector["id"]
    for vector in VECTORS["uuid7"]:
        at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=vector["ms"])
        assert ids.uuid7(at, bytes.fromhex(vector["random"])) == vector["id"]
        assert ids.made_at(vector["id"]) == at
