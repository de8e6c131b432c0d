"""Every command that the pages show does what they show: each page is one session with a stack of its own (docs/transcripts.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs_scripts import load

ROOT = Path(__file__).parents[2]


TRANSCRIPTS = load("transcripts")
# The two that most people see answer while one works; all of them together take longer than that.
QUICK = {"README.md", "quickstart.md"}
PAGES = [
    pytest.param(page, id=str(page.relative_to(ROOT)), marks=() if page.name in QUICK else pytest.mark.slow)
    for page in TRANSCRIPTS.pages()
]


@pytest.mark.timeout(2 * TRANSCRIPTS.PAGE_SECONDS)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_it_shows(page, tmp_path):
    text = page.read_text()
    found = TRANSCRIPTS.differences(text, TRANSCRIPTS.run(text, tmp_path / "home"))
    assert not found, "\n".join(found.values()) + "\nIf the program is right: `just transcripts`"


def test_a_command_that_fails_unseen_is_told(tmp_path):
    with pytest.raises(
        TRANSCRIPTS.Mismatch, match=r"exit code 3 of `sh -c 'echo because; exit 3'`, which printed:\nbecause"
    ):
        TRANSCRIPTS.run("```console\n$ sh -c 'echo because; exit 3'\n```\n", tmp_path / "home")
