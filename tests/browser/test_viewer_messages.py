"""The page makes the golden bytes (tests/golden), by its own modules, in the browser's own cryptography."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
VECTORS = json.loads((GOLDEN / "derived.json").read_text())
TIMES = "Date.parse('2026-02-03T04:05:06Z')"
FULL = """{
  deploymentId: "dep-golden", requestId: "019ab1c2d3e47f0089abcdef01234567",
  issuedAt: Date.parse("2026-02-03T04:05:06.789Z"), expiresAt: Date.parse("2026-02-03T05:05:06.789Z"),
  command: ["sh", "-c", 'printf "%s\\\\n" "$1" ümläut', "", "--help", "two\\nlines", "\\\\"],
  image: "tools:1.2", env: { B: "2", A: "ä", _C9: "" }, secrets: ["db/password"], locks: ["prod/db", "prod/dns"],
  ifLocked: "fail", timeoutSeconds: 90, queueTimeoutSeconds: 3600, cpu: 1024, memoryMib: 2048,
  git: { repo: "https://example.com/infra.git", ref: "main", path: "envs/prod" }, playbook: "deploy",
  labels: { team: "core", env: "prod" }, name: "nightly", isolation: "container" }"""
MINIMAL = """{
  deploymentId: "dep-golden", requestId: "019ab1c2d3e47f0089abcdef01234567", issuedAt: Date.parse("2026-02-03T04:05:06Z"),
  expiresAt: Date.parse("2026-02-03T04:05:07Z"), command: "echo hello" }"""


def made(page: Any, body: str) -> bytes:
    script = f"""async () => {{
      const [bytes, msgpack, identity, envelope] = await Promise.all(
        ["bytes", "msgpack", "identity", "envelope"].map((name) => import(`/web/${{name}}.js`)));
      const key = await identity.keyOfText({json.dumps(VECTORS["api_key"])});
      const seq = Uint8Array.from({{ length: 32 }}, (_, at) => at);
      const found = await (async () => {{ {body} }})();
      return typeof found === "string" ? bytes.toBase64(bytes.utf8(found)) : bytes.toBase64(found);
    }}"""
    return base64.b64decode(page.evaluate(script))


@pytest.mark.parametrize(
    ("file", "body"),
    [
        ("run-request.msgpack", f"return envelope.encodeRunRequest({FULL});"),
        ("run-request-minimal.msgpack", f"return envelope.encodeRunRequest({MINIMAL});"),
        (
            "run-request.envelope",
            f"return envelope.seal(envelope.RUN_REQUEST, envelope.encodeRunRequest({FULL}), key);",
        ),
        (
            "control-call.authorization",
            "return envelope.authorization(key, { deploymentId: 'dep-golden', method: 'GET',"
            " target: '/api/v1/executions?limit=20&owner=ada%40example.com', body: new Uint8Array(),"
            f" at: {TIMES}, nonce: seq.slice(0, 16) }});",
        ),
        ("claim.envelope", "return envelope.sealClaim('dep-golden', seq, key);"),
    ],
)
def test_the_page_makes_the_golden_bytes(module_page: Any, file: str, body: str) -> None:
    assert made(module_page, body) == (GOLDEN / file).read_bytes()


def test_the_page_reads_the_golden_key_and_token(module_page: Any) -> None:
    assert made(module_page, "return key.publicKey;").hex() == VECTORS["public_key"]
    assert made(module_page, "return key.keyId;").decode() == VECTORS["key_id"]
    token = (GOLDEN / "claim-token.txt").read_text()
    read = f"const t = identity.parseToken({json.dumps(token)}); return JSON.stringify([bytes.toHex(t.secret), t.endpoint, t.deploymentId]);"
    assert json.loads(made(module_page, read)) == [bytes(range(32)).hex(), "https://runvoy.example.com", "dep-golden"]


@pytest.mark.parametrize(
    "text",
    ["", "rvk1_", "hello", VECTORS["api_key"][:-1], VECTORS["api_key"][:-1] + "A", VECTORS["api_key"] + "A"]
    + [VECTORS["api_key"].replace("rvk1", "rvk2"), "rvk1_" + "+" * 48],
)
def test_a_damaged_key_is_told_without_being_shown(module_page: Any, text: str) -> None:
    script = """async (text) => {
      const { keyOfText } = await import("/web/identity.js");
      try { await keyOfText(text); return ""; } catch (error) { return `${error.constructor.name}: ${error.message}`; } }"""
    told = module_page.evaluate(script, text)
    assert told.startswith("DamagedText: ")
    assert len(text) < 6 or text not in told


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-1], lambda text: text[:-2] + "AA", lambda text: "rvc1_", lambda text: "x"]
)
def test_a_damaged_token_is_told_without_being_shown(module_page: Any, damage: Any) -> None:
    text = damage((GOLDEN / "claim-token.txt").read_text())
    script = """async (text) => {
      const { parseToken } = await import("/web/identity.js");
      try { parseToken(text); return ""; } catch (error) { return error.constructor.name + error.message; } }"""
    told = module_page.evaluate(script, text)
    assert told.startswith("DamagedText")


def test_msgpack_is_that_of_the_deployment(module_page: Any) -> None:
    """At every width: integers, texts, bytes, arrays and maps, and times with and without a part of a second."""
    import msgspec

    from runvoy_protocol import codec

    class Both(msgspec.Struct, array_like=True):
        values: list[Any]

    sizes = [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536]
    integers = [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 - 1]
    keys = ["b", "a", "\U0001f600", "＀", "ab", ""]
    wanted = Both(
        [
            *integers,
            *("x" * size for size in sizes),
            *(b"y" * size for size in sizes),
            *([None] * size for size in sizes[:8]),
            dict.fromkeys(keys, "v"),
            {str(number): "" for number in range(20)},
            None,
            True,
            False,
        ]
    )
    body = f"""
      const sizes = {json.dumps(sizes)};
      return msgpack.encode([[...{json.dumps(integers)}, ...sizes.map((size) => "x".repeat(size)),
        ...sizes.map((size) => new Uint8Array(size).fill(121)), ...sizes.slice(0, 8).map((size) => Array(size).fill(null)),
        new Map({json.dumps(keys)}.map((name) => [name, "v"])), new Map(Array.from({{ length: 20 }}, (_, at) => [String(at), ""])),
        null, true, false]]);"""
    assert made(module_page, body) == codec.encode(wanted)


def test_ids_are_uuid7s_of_their_time(module_page: Any) -> None:
    from runvoy_protocol import ids

    made_id = made(module_page, "return bytes.uuid7(Date.parse('2026-02-03T04:05:06.789Z'));").decode()
    assert ids.is_execution_id(made_id)
    at = ids.made_at(made_id)
    assert at is not None
    assert at.isoformat() == "2026-02-03T04:05:06.789000+00:00"
