"""What pages promise a reader: links that lead somewhere, files that exist, lines that fit."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMED = [str(page.relative_to(ROOT)) for page in PAGES]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SOURCE_PATH = re.compile(r"`([a-z_]+(?:/[a-z_0-9]+)*(?:/|\.(?:py|cpp|h)))`")
REFERENCED = re.compile(r"^::: (\S+)$", re.MULTILINE)
WIDEST = 120
"""Characters of a line of prose; rows of tables cannot be broken and have no limit."""
FREE = {"docs/log.md", "CHANGELOG.md"}
"""Entries of a day, kept as they were written."""


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = HEADING.findall(FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMED)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken: list[str] = []
    for inline, reference in LINK.findall(FENCED.sub("", page.read_text())):
        target, _, anchor = (inline or reference).partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        found = page if not target else page.parent / target
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(inline or reference)
    assert broken == []


@pytest.mark.parametrize("name", sorted(set(NAMED) - FREE))
def test_lines_of_prose_fit(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    wide = [number for number, line in enumerate(lines, 1) if len(line) > WIDEST and not line.startswith(("|", "["))]
    assert wide == []


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/extending.md", "docs/glossary.md", "docs/design.md"])
def test_files_that_a_page_names_exist(name: str) -> None:
    text = FENCED.sub("", (ROOT / name).read_text())
    bases = (ROOT, ROOT / "src" / "shoal", ROOT / "native")
    assert [path for path in SOURCE_PATH.findall(text) if not any((base / path).exists() for base in bases)] == []


@pytest.mark.parametrize(("name", "most"), [("README.md", 120), ("docs/architecture.md", 60)])
def test_what_is_read_first_is_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= most


def test_what_the_reference_names_can_be_imported() -> None:
    named = [
        name for page in (ROOT / "docs" / "reference").glob("*.md") for name in REFERENCED.findall(page.read_text())
    ]
    assert named
    for name in named:
        import_module(name)
