"""Presigned uploads and reads: the right use, and every refusal."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from runvoy_agent.local.grants import Grants
from runvoy_agent.ports import Unavailable
from runvoy_protocol.errors import ErrorCode, RunvoyError

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
EXPIRES_AT = NOW + timedelta(minutes=55)
MAX_BYTES = 1000
KEY = "requests/kid/0190"
GRANTS = Grants(bytes(range(32)), "http://127.0.0.1:8080")
POLICY = GRANTS.sign_post(
    "inbox", "requests/kid/", content_type="application/x", max_bytes=MAX_BYTES, expires_at=EXPIRES_AT
)

Fields = list[tuple[str, str]]
BUCKET = {"bucket": "inbox"}


def form(key: str = KEY, content_type: str = "application/x", **changed: str) -> Fields:
    return [("key", key), ("Content-Type", content_type), *{**POLICY.fields, **changed}.items()]


def signed(document: object, *more: tuple[str, str], key: str = KEY) -> Fields:
    """A form with a policy of our own making under a right signature."""
    policy = base64.b64encode((document if isinstance(document, str) else json.dumps(document)).encode()).decode()
    return [("key", key), ("policy", policy), ("x-runvoy-signature", GRANTS.sign_policy(policy)), *more]


def under(*conditions: object) -> dict[str, object]:
    return {"expiration": "2026-03-01T12:30:00Z", "conditions": [["starts-with", "$key", ""], BUCKET, *conditions]}


def refusal(fields: Fields, size: int = 10, now: datetime = NOW, bucket: str = "inbox") -> RunvoyError:
    with pytest.raises(RunvoyError) as caught:
        GRANTS.verify_post(bucket, fields, size, now)
    return caught.value


def test_policy_is_s3s() -> None:
    assert POLICY.url == "http://127.0.0.1:8080/inbox"
    assert json.loads(base64.b64decode(POLICY.fields["policy"])) == {
        "expiration": "2026-03-01T12:55:00Z",
        "conditions": [
            {"bucket": "inbox"},
            ["starts-with", "$key", "requests/kid/"],
            ["content-length-range", 1, MAX_BYTES],
            {"Content-Type": "application/x"},
        ],
    }


@pytest.mark.parametrize("size", [1, MAX_BYTES])
def test_right_use(size: int) -> None:
    for fields in (form(), form()[::-1], [("KEY", KEY), *form()[1:]], [*form(), ("x-ignore-this", "1")]):
        assert GRANTS.verify_post("inbox", fields, size, NOW) == (KEY, "application/x")
    GRANTS.verify_post("inbox", form(), size, EXPIRES_AT - timedelta(milliseconds=1))


def test_another_process_with_the_secret_agrees() -> None:
    assert Grants(bytes(range(32))).verify_post("inbox", form(), 10, NOW).object_key == KEY


def without(name: str) -> Fields:
    return [field for field in form() if field[0] != name]


TAMPERED = base64.b64encode(base64.b64decode(POLICY.fields["policy"]).replace(b"1000", b"9999")).decode()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param(form(key="requests/other/0190"), "'requests/kid/'", id="another key's prefix"),
        pytest.param(form(key="requests/kid"), "'requests/kid/'", id="the prefix without its slash"),
        pytest.param(form(content_type="text/html"), "'content-type'", id="another type"),
        pytest.param(form(content_type="application/x; charset=x"), "'content-type'", id="type with parameters"),
        pytest.param([*form(), ("acl", "public-read")], "'acl'", id="field without a condition"),
        pytest.param([*form(), ("success_action_redirect", "http://e")], "'success_action", id="redirect"),
        pytest.param([*form(), ("key", KEY)], "'key' stands twice", id="field twice"),
        pytest.param([*form(), ("KEY", "requests/other/1")], "'key' stands twice", id="field twice in another case"),
        pytest.param([*form(), ("policy", POLICY.fields["policy"])], "'policy' stands twice", id="policy twice"),
        pytest.param([*form(), ("bucket", "outbox")], "another bucket", id="form names another bucket"),
        pytest.param(form(policy=TAMPERED), "signature", id="tampered policy"),
        pytest.param(form(policy=POLICY.fields["policy"] + "="), "signature", id="policy with a byte more"),
        pytest.param(form(policy=""), "signature", id="empty policy"),
        pytest.param(form(**{"x-runvoy-signature": "A" * 43}), "signature", id="bad signature"),
        pytest.param(form(**{"x-runvoy-signature": ""}), "signature", id="empty signature"),
        pytest.param(form(**{"x-runvoy-signature": "é"}), "signature", id="signature that is not ASCII"),
        pytest.param(without("key"), "'key'", id="no key"),
        pytest.param(without("Content-Type"), "'content-type'", id="no type"),
        pytest.param(without("policy"), "'policy'", id="no policy"),
        pytest.param(without("x-runvoy-signature"), "'x-runvoy-signature'", id="no signature"),
        pytest.param([], "'policy'", id="nothing"),
    ],
)
def test_refused_forms(fields: Fields, names: str) -> None:
    error = refusal(fields)
    assert error.code is ErrorCode.FORBIDDEN
    assert names in error.message


def test_refused_size_time_and_bucket() -> None:
    assert refusal(form(), size=MAX_BYTES + 1).code is ErrorCode.TOO_LARGE
    assert "1,000" in refusal(form(), size=MAX_BYTES + 1).message
    empty = refusal(form(), size=0)
    assert (empty.code, "at least 1" in empty.message) == (ErrorCode.FORBIDDEN, True)
    assert "expired" in refusal(form(), now=EXPIRES_AT).message
    assert "'bucket'" in refusal(form(), bucket="outbox").message


def test_another_secret_is_refused() -> None:
    with pytest.raises(RunvoyError, match="signature"):
        Grants(bytes(32)).verify_post("inbox", form(), 10, NOW)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="no object"),
        pytest.param("[" * 5000, id="deep"),
        pytest.param({"conditions": []}, id="no expiration"),
        pytest.param({"expiration": "2026-03-01T12:30:00Z"}, id="no conditions"),
        pytest.param({**under(), "more": 1}, id="unknown part"),
        pytest.param({**under(), "conditions": {"key": KEY}}, id="conditions that are no list"),
        pytest.param({**under(), "expiration": 1}, id="expiration that is no text"),
        pytest.param({**under(), "expiration": "2026-03-01T12:30:00"}, id="expiration without a zone"),
        pytest.param({**under(), "expiration": "2026-03-01T12:30:00+01:00"}, id="expiration with an offset"),
        pytest.param(
            '{"expiration":"2026-03-01T12:30:00Z","expiration":"2027-03-01T12:30:00Z","conditions":[]}', id="2x"
        ),
        pytest.param(under(["ends-with", "$key", "x"]), id="unknown operator"),
        pytest.param(under(["EQ", "$key", KEY]), id="operator in another case"),
        pytest.param(under(["eq", "key", KEY]), id="field without a dollar"),
        pytest.param(under(["eq", "$", ""]), id="no field"),
        pytest.param(under(["eq", "$key"]), id="two parts"),
        pytest.param(under(["eq", "$key", 1]), id="value that is no text"),
        pytest.param(under({"key": KEY, "acl": "x"}), id="two fields"),
        pytest.param(under({}), id="no fields"),
        pytest.param(under({"key": [KEY]}), id="list of values"),
        pytest.param(under("key"), id="text"),
        pytest.param(under(None), id="null"),
        pytest.param(under(["content-length-range", 1]), id="range without an end"),
        pytest.param(under(["content-length-range", "1", "5"]), id="range of texts"),
        pytest.param(under(["content-length-range", True, 5]), id="range of booleans"),
        pytest.param(under(["content-length-range", 5, 1]), id="range that is empty"),
    ],
)
def test_policies_that_are_not_understood_are_refused(document: object) -> None:
    error = refusal(signed(document))
    assert error.code is ErrorCode.FORBIDDEN
    assert "malformed" in error.message


def test_every_condition_is_evaluated() -> None:
    def accepted(document: object, *more: tuple[str, str]) -> None:
        GRANTS.verify_post("inbox", signed(document, *more), 10, NOW)

    accepted(under())
    accepted({**under(), "expiration": "2026-03-01T12:30:00.000Z"})
    accepted(under(["eq", "$Key", KEY], {"bucket": "inbox"}))
    accepted(under(["starts-with", "$x-meta", "a"], {"X-Meta": "abc"}), ("x-Meta", "abc"))
    assert "'abc'" in refusal(signed(under(["starts-with", "$m", "a"], {"m": "abc"}), ("m", "abd"))).message
    assert "begin with 'b'" in refusal(signed(under(["starts-with", "$m", "b"]), ("m", "abd"))).message
    assert "no field 'm'" in refusal(signed(under(["starts-with", "$m", ""]))).message
    ranges = under(["content-length-range", 0, 100], ["content-length-range", 5, 50])
    assert refusal(signed(ranges), size=51).code is ErrorCode.TOO_LARGE
    assert refusal(signed(ranges), size=4).code is ErrorCode.FORBIDDEN
    for given, missing in ((BUCKET, "'key'"), ({"key": KEY}, "'bucket'")):
        document = {"expiration": "2026-03-01T12:30:00Z", "conditions": [given]}
        assert f"{missing} of the upload form is not in its policy" in refusal(signed(document)).message


URL = GRANTS.sign_get("outbox", "executions/1/status.json", expires_at=EXPIRES_AT)
QUERY = urlsplit(URL).query
SIGNATURE = parse_qs(QUERY)["signature"][0]
EXPIRES = parse_qs(QUERY)["expires"][0]


def test_presigned_url() -> None:
    assert URL.startswith("http://127.0.0.1:8080/outbox/executions/1/status.json?expires=")
    GRANTS.verify_get("outbox", "executions/1/status.json", QUERY, NOW)
    GRANTS.verify_get("outbox", "executions/1/status.json", QUERY, EXPIRES_AT - timedelta(milliseconds=1))
    GRANTS.verify_get("outbox", "executions/1/status.json", f"signature={SIGNATURE}&expires={EXPIRES}", NOW)


@pytest.mark.parametrize(
    ("bucket", "key", "query", "now"),
    [
        pytest.param("outbox", "executions/2/status.json", QUERY, NOW, id="another key"),
        pytest.param("inbox", "executions/1/status.json", QUERY, NOW, id="another bucket"),
        pytest.param("outbox", "executions/1/status.json", QUERY, EXPIRES_AT, id="expired"),
        pytest.param("outbox", "executions/1/status.json", QUERY.replace(EXPIRES, "9999999999"), NOW, id="later"),
        pytest.param(
            "outbox", "executions/1/status.json", QUERY.replace(EXPIRES, f"0{EXPIRES}"), NOW, id="zero before"
        ),
        pytest.param("outbox", "executions/1/status.json", f"expires={EXPIRES}&signature={'A' * 43}", NOW, id="bad"),
        pytest.param("outbox", "executions/1/status.json", f"expires={EXPIRES}&signature=%C3%A9", NOW, id="no ASCII"),
        pytest.param("outbox", "executions/1/status.json", f"expires={EXPIRES}&signature=", NOW, id="empty"),
        pytest.param("outbox", "executions/1/status.json", f"expires={EXPIRES}", NOW, id="no signature"),
        pytest.param("outbox", "executions/1/status.json", f"signature={SIGNATURE}", NOW, id="no expiry"),
        pytest.param("outbox", "executions/1/status.json", f"{QUERY}&response-content-type=a", NOW, id="more"),
        pytest.param("outbox", "executions/1/status.json", f"{QUERY}&expires={EXPIRES}", NOW, id="twice"),
        pytest.param("outbox", "executions/1/status.json", f"{QUERY}{'&a=1' * 20}", NOW, id="many"),
        pytest.param("outbox", "executions/1/status.json", "&&&", NOW, id="nonsense"),
        pytest.param("outbox", "executions/1/status.json", "", NOW, id="none"),
    ],
)
def test_refused_urls(bucket: str, key: str, query: str, now: datetime) -> None:
    with pytest.raises(RunvoyError) as caught:
        GRANTS.verify_get(bucket, key, query, now)
    assert caught.value.code is ErrorCode.FORBIDDEN


def test_signatures_serve_one_purpose() -> None:
    """A policy's text can be chosen to look like a URL's parts, and must still not be one."""
    forged = GRANTS.sign_policy(f"GET:outbox:executions/1/status.json:{EXPIRES}")
    with pytest.raises(RunvoyError, match="signature"):
        GRANTS.verify_get("outbox", "executions/1/status.json", f"expires={EXPIRES}&signature={forged}", NOW)


def test_what_grants_need() -> None:
    with pytest.raises(ValueError, match="32"):
        Grants(b"short")
    with pytest.raises(Unavailable):
        Grants(bytes(32)).sign_get("outbox", "a", expires_at=EXPIRES_AT)
