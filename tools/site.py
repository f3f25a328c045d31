"""Hooks of the documentation site (mkdocs.yml): what the navigation and the links of pages need there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)([^)]+)\)")
_REFERENCE = re.compile(r"^\[([^\]]+)\]: (?:\.\./)+(\S+)$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Every page has its place in the navigation: decisions by their number, others that mkdocs.yml leaves out last."""
    docs = Path(config["docs_dir"])
    listed = str(config["nav"])
    more: list[str] = [page.name for page in sorted(docs.glob("*.md")) if f"'{page.name}'" not in listed]
    if more:
        config["nav"].append({"More": more})
    config["nav"].append({"Decisions": [f"decisions/{page.name}" for page in sorted(docs.glob("decisions/*.md"))]})
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Files outside of docs/ are not part of the site: a link to one becomes its text and the file's name."""
    for label, path in _REFERENCE.findall(markdown):
        markdown = re.sub(rf"\[([^\]]+)\]\[{re.escape(label)}\]", rf"\1 (`{path}`)", markdown)
    return _OUTSIDE.sub(r"\1 (`\2`)", _REFERENCE.sub("", markdown))
