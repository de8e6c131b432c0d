"""The pages made from code are current, and no page of the docs points at nothing."""

import re
from pathlib import Path

import pytest
from tests.docs_scripts import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def test_generated_pages_are_current():
    for name, render in load("generate").PAGES.items():
        assert (ROOT / "docs" / name).read_text() == render(), f"docs/{name}: run `just docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("#"):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def anchors(page):
    """The places of a page that a link can name, as GitHub makes them of its headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    made = (
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title))
        for title in re.findall(r"^#+ (.+)$", text, re.M)
    )
    return {title.strip().lower().replace(" ", "-") for title in made}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_a_place_in_a_page_find_it(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, place = target.partition("#")
        linked = page.parent / path if path else page
        if place and "://" not in target and linked.suffix == ".md":
            assert place in anchors(linked), f"{page.name} links to {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if page.parent.name != "adr" and page.name != "README.md":
            assert f"]({page.relative_to(ROOT / 'docs')}" in index, f"docs/README.md does not name {page.name}"


def test_the_modules_that_development_md_names_by_subject_are_there():
    folders = ["protocol/runvoy_protocol", "agent/runvoy_agent/core", "agent/runvoy_agent/handlers", "cli/runvoy_cli"]
    table = (ROOT / "docs" / "development.md").read_text().partition("| subject |")[2].partition("\n\n")[0]
    rows = [row.strip("|").split("|") for row in table.splitlines()[2:]]
    assert len(rows) > 10
    for subject, *cells in rows:
        for folder, cell in zip(folders, cells, strict=True):
            for name in re.findall(r"`([^`]+)`", cell):
                assert list((ROOT / folder).glob(f"{name}.py")), f"{subject.strip()}: {folder}/{name}.py"


@pytest.mark.parametrize("folder", ["agent/runvoy_agent/handlers", "cli/runvoy_cli"])
def test_every_package_is_on_the_map_of_development_md(folder):
    text = (ROOT / "docs" / "development.md").read_text()
    mapped = text.partition(f"| `{Path(folder).name}/` |")[2].partition("\n\n")[0]
    packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert set(re.findall(r"`(\w+)/`", mapped)) == packages
