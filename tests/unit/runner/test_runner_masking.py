"""Secrets reach the command exactly and its log never, nor what the runner itself says."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runvoy_agent
from runvoy_agent.runner.masking import Masker
from runvoy_protocol.logs import LogRecord

NewRun = Callable[[], Any]

RUNNER = Path(next(iter(runvoy_agent.__path__))) / "runner" / "__main__.py"
PASSWORD = b"hunter2-hunter2"
VALUES = {
    "NOT_UTF8": b"\xff\xfe\x80\xc3(",
    "LINES": b"\nfirst\r\nsecond line\n\n",
    "QUOTES": b"'\"`$(id)\\ \t=%",
    "UNICODE": "pässwörd \U0001f511".encode(),
    "EMPTY": b"",
    "ALL_BYTES": bytes(range(1, 256)),
    "LONG": b"x" * 100_000,
}


def python(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", script]


def in_base64(secrets: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in secrets.items()}


def test_values_reach_the_command_exactly(new_run: NewRun) -> None:
    # Each byte moved on by one: the log must not be masked here.
    script = f"import os\nfor n in {list(VALUES)}: print(n, ' '.join(str(b + 1) for b in os.environb[n.encode()]))"
    run = new_run().start(python(script), secrets=in_base64(VALUES))
    assert run.wait()["exit_code"] == 0
    seen = {
        name: [int(word) - 1 for word in rest] for name, *rest in map(str.split, run.output().decode().splitlines())
    }
    assert {name: bytes(value) for name, value in seen.items()} == VALUES


def test_both_streams_are_masked(new_run: NewRun) -> None:
    secrets = in_base64({"PASSWORD": PASSWORD, "KEY": b"-----BEGIN-----\nMIIEpAIBAAKCAQEA\n-----END-----\n"})
    script = (
        'echo "a $PASSWORD b"; echo "c $PASSWORD d" >&2; printf "%s" "$PASSWORD" | base64; echo "$KEY" | tail -n 3;'
        'set -x; : "$PASSWORD"; printf "%s" "${PASSWORD%2}" >&2'
    )
    run = new_run().start(script, secrets=secrets)
    assert run.wait()["exit_code"] == 0
    assert run.output("out") == b"a *** b\n***\n***\n***\n\n"
    err = run.output("err").decode()
    assert err.startswith("c *** d\n+ : ***\n")
    assert err.endswith("hunter2-hunter"), "what was only the beginning of a secret is shown in the end"


def test_a_megabyte_written_in_pieces(new_run: NewRun) -> None:
    script = (
        "import os, base64, random, urllib.parse, json\n"
        "r = random.Random(7); s = os.environb[b'S']\n"
        "forms = [s, json.dumps(s.decode())[1:-1].encode(), urllib.parse.quote_plus(s).encode(), s.hex().encode(),\n"
        "  *(base64.b64encode(b'?' * n + s + b'?') for n in range(3)), base64.encodebytes(b'?' * 50 + s)]\n"
        "data = b''\n"
        "while len(data) < 1_000_000: data += r.choice(forms) + b'\\n' + b'a line that is kept\\n' * r.randrange(20)\n"
        "open('../kept', 'w').write(str(data.count(b'a line that is kept\\n')))\n"
        "at = 0\n"
        "while at < len(data):\n"
        "  n = int(2 ** r.uniform(0, 16))\n"
        "  os.write(1, data[at:at + n]); at += n\n"
    )
    secret = "p/ss+w\"rd\\ 'hunter2' ä".encode()
    run = new_run().start(python(script), secrets=in_base64({"S": secret}))
    assert run.wait()["exit_code"] == 0
    shown = run.output()
    assert shown.count(b"a line that is kept\n") == int((run.folder / "kept").read_text())
    for form in (secret, json.dumps(secret.decode())[1:-1].encode(), secret.hex().encode(), b"%C3%A4", b"hunter2"):
        assert form not in shown
    for shift in range(3):
        core = base64.b64encode(b"?" * shift + secret)[4:-4]
        assert core not in shown
        assert core not in shown.replace(b"\n", b"")


def test_a_secret_printed_slowly_is_masked(new_run: NewRun) -> None:
    script = f"import os,time\nfor b in {PASSWORD!r}: os.write(1, bytes([b])); time.sleep(.06)\nos.write(1, b'.')"
    run = new_run().start(python(script), secrets=in_base64({"PASSWORD": PASSWORD}))
    run.wait()
    assert run.output() == b"***."


def test_what_begins_no_secret_is_there_at_once(new_run: NewRun, until: Callable[..., None]) -> None:
    script = "echo hi there; while [ ! -e go ]; do sleep 0.02; done; printf hunter; exec >&-; while [ ! -e on ]; do sleep 0.02; done"
    run = new_run().start(script, secrets=in_base64({"PASSWORD": PASSWORD}))
    until((run.folder / "spool/logs/00000001").exists)
    assert run.output() == b"hi there\n"
    (run.folder / "work/go").touch()
    until((run.folder / "spool/logs/00000002").exists)
    assert run.output() == b"hi there\nhunter", "a stream's end releases what waits, the command may go on"
    (run.folder / "work/on").touch()
    run.wait()


@pytest.mark.parametrize("word", ["hunter2-hunter2", "/no/hunter2-hunter2/x"])
def test_the_runner_does_not_quote_secrets(new_run: NewRun, word: str) -> None:
    run = new_run().start([word], secrets=in_base64({"PASSWORD": PASSWORD}))
    result = run.wait()
    assert result["exit_code"] == 127
    assert result["message"] == f"cannot run '{word.replace(PASSWORD.decode(), '***')}': not found"
    assert run.output("sys").decode() == f"runvoy: {result['message']}\n"
    assert "hunter2" not in (run.folder / "runner.log").read_text()


def test_a_short_secret_is_named_and_not_masked(new_run: NewRun) -> None:
    secrets = in_base64({"SHORT": b"1234567\n", "LONG_ENOUGH": b"12345678", "NONE": b"\n"})
    run = new_run().start('echo "$SHORT $LONG_ENOUGH"', secrets=secrets)
    run.wait()
    assert run.output("sys") == b"runvoy: secret SHORT is too short to be masked\n"
    assert run.output("out") == b"1234567\n ***\n"


def test_without_secrets_masking_is_not_even_imported(new_run: NewRun) -> None:
    command = [sys.executable, "-X", "importtime", "-I", "-S", str(RUNNER), "RUN_DIR"]
    for secrets, expected in (({}, False), (in_base64({"A": PASSWORD}), True)):
        again = new_run()
        command[-1] = str(again.folder)
        payload = again.payload("true", secrets=secrets)
        imported = subprocess.run(command, input=payload, capture_output=True, check=True).stderr
        assert b"runvoy_agent.runner.output" in imported
        assert (b"runner.masking" in imported) is expected
        assert (b"urllib" in imported) is expected


def test_bytes_that_are_cut_by_a_mask_are_kept(new_run: NewRun) -> None:
    run = new_run().start(
        python("import os; os.write(1, b'\\xe2\\x82' + os.environb[b'P'] + b'\\xac\\n')"),
        secrets=in_base64({"P": PASSWORD}),
    )
    run.wait()
    assert run.output() == b"\xe2\x82***\xac\n"
    assert [record.s for record in run.records() if isinstance(record, LogRecord)] == ["out", "sys"]


@pytest.mark.parametrize("end", ["hello\n", "hello: ", "https://example.com/\n", "x" * 59 + "\n", "100%\n"])
def test_an_ordinary_end_of_output_does_not_wait(end: str) -> None:
    masker = Masker(
        {b"A": PASSWORD, b"B": b"\nvalue with a line end\n", b"C": b" leading space", b"D": bytes(range(256))}
    )
    assert masker.filter("out", end.encode()) == end.encode()


def test_a_mask_is_shown_as_soon_as_the_secret_is_complete() -> None:
    masker = Masker({b"A": PASSWORD, b"B": PASSWORD + b"-and-more"})
    assert masker.filter("out", b"a hunter2-hunter") == b"a "
    assert masker.filter("out", b"2") == b"***"
    assert masker.filter("out", b"-and-m") == b""
    assert masker.filter("out", b"ore") == b""
    assert masker.filter("out", b"!\n") == b"!\n"


def test_wrapped_encodings_are_found() -> None:
    secret = bytes(range(150))
    masker = Masker({b"A": secret})
    for width, eol in ((60, b"\n"), (64, b"\n"), (76, b"\n"), (76, b"\r\n")):
        for encoded in (base64.b64encode(b"xyz" * 20 + secret), (b"xyz" * 20 + secret).hex().encode()):
            wrapped = eol.join(encoded[at : at + width] for at in range(0, len(encoded), width)) + eol
            shown = masker.filter("out", b"key: " + wrapped) + masker.filter("out", b"")
            head = 80 if encoded.startswith(b"eHl6") else 120
            assert shown.replace(eol, b"") == b"key: " + encoded[:head] + b"***"
            assert shown.endswith(b"***" + eol)
