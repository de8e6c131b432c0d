"""The pictures in docs/images, made of real runs: `just screenshots`. A plain run leaves them as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

IMAGES = Path(__file__).parents[2] / "docs" / "images"
pytestmark = pytest.mark.skipif(
    "RUNVOY_TEST_SCREENSHOTS" not in os.environ, reason="it would write docs/images anew: `just screenshots`"
)
TEST_SUITE = r"""
printf 'collected 184 items\n\n'
for part in api core ledger; do printf 'tests/%s ' $part; for i in 1 2 3 4 5 6 7 8; do printf '\033[32m.\033[0m'; done; echo; done
printf '\033[33mwarning: ledger uses a deprecated clock\033[0m\n' >&2
printf '\033[1;31mFAILED\033[0m tests/ledger/test_rounding.py::test_half_cents - assert \033[36m0.125\033[0m == 0.13\n' >&2
printf '\033[31m1 failed\033[0m, \033[32m183 passed\033[0m in 4.2s\n'; exit 1"""
DEPLOY = r"""
echo "migrating under fence $RUNVOY_LOCK_FENCE"
for n in 041_accounts 042_ledger_index 043_refunds; do printf '\033[36m%s\033[0m applied\n' $n; sleep 0.3; done
i=0; while [ $i -lt 200 ]; do i=$((i+1)); printf 'checked %d of 200 tenants\n' $i; sleep 0.4; done"""


@pytest.fixture(scope="module")
def busy(stack: Any) -> str:
    """A stack as one has it on a working day; the id of a run that goes on."""
    reading, writing = os.pipe()
    os.write(writing, b"correct horse battery")
    os.close(writing)
    stack.ok("secrets", "create", "prod-db-password", "PGPASSWORD", stdin=reading)
    stack("run", "--name", "unit tests", "--label", "team=ledger", "--label", "branch=main", TEST_SUITE)
    for name, words in {
        "nightly backup": ["--label", "team=core", "tar -cf /dev/null /etc/hostname; sleep 1"],
        "rotate certificates": ["--lock", "edge-tls", "--label", "env=prod", "echo rotated"],
        "terraform plan": ["--lock", "prod-infra", "--label", "env=prod", "--", "sh", "-c", "echo No changes."],
        "smoke test": ["--timeout", "1s", "--label", "env=staging", "sleep 30"],
        "seed demo data": ["--label", "env=demo", "echo 120 rows"],
        "build image": ["--label", "team=ledger", "sh -c 'echo layer 1; sleep 1; echo pushed'"],
    }.items():
        stack("run", "--name", name, *words)
    found: str = stack.ok(
        "submit",
        "--name",
        "migrate production",
        "--lock",
        "prod-db",
        "--label",
        "env=prod",
        "--env",
        "RELEASE=2026.11",
        "--env",
        "TENANTS=200",
        "--secret",
        "prod-db-password",
        "--timeout",
        "45m",
        DEPLOY,
    ).strip()
    stack.ok("submit", "--name", "restore check", "--lock", "prod-db", "--label", "env=prod", "echo restored")
    stack.ok("submit", "--name", "vacuum", "--lock", "prod-db", "echo vacuumed")
    stack.wait_until(lambda: stack.status(found)["state"] == "RUNNING")
    return found


@pytest.mark.timeout(600)
def test_the_pictures(
    new_context: Callable[..., Any], sign_in: Callable[[Any], Any], busy: str, stack: Any, tmp_path: Path
) -> None:
    IMAGES.mkdir(exist_ok=True)
    shop = tmp_path / "shop"
    shutil.copytree(IMAGES.parent / "playbooks", shop / ".runvoy")
    page = sign_in(new_context(reduced_motion="reduce").new_page())
    root = page.url.partition("?")[0]
    expect(page.locator("table.runs tbody tr")).to_have_count(10)
    expect(page.locator("figure.columns")).to_contain_text("cost by day")
    _take(page, "web-runs")
    page.goto(f"{root}?execution_id={busy}")
    expect(page.locator(".log-host")).to_contain_text("checked 12 of 200")
    expect(page.locator("[data-part=request] dl")).to_be_visible()
    _take(page, "web-run")
    page.set_viewport_size({"width": 1280, "height": 1700})
    page.locator("[data-part=receipt] summary").click()
    expect(page.locator("[data-part=receipt] dl")).to_be_visible()
    page.locator("aside.facts").screenshot(path=IMAGES / "web-request.png", animations="disabled")
    page.set_viewport_size({"width": 1280, "height": 800})
    dark = sign_in(new_context(reduced_motion="reduce", color_scheme="dark").new_page())
    dark.get_by_role("link", name="unit tests").click()
    expect(dark.locator(".log-host")).to_contain_text("183 passed")
    _take(dark, "web-run-dark")
    stack.ok("playbook", "publish", cwd=shop, env={"HOME": str(tmp_path)})
    page.goto(f"{root}?view=new&playbook=rolling-restart")
    page.get_by_label("namespace").select_option("shop")
    page.get_by_label("deployment").fill("cart-api")
    _take(page, "web-playbook")
    phone = sign_in(new_context(viewport={"width": 390, "height": 760}, reduced_motion="reduce").new_page())
    expect(phone.locator("table.runs tbody tr")).to_have_count(10)
    _take(phone, "web-phone")


def _take(page: Any, name: str) -> None:
    page.wait_for_timeout(400)  # fonts and the first news
    page.mouse.move(0, 0)
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")
