"""The metrics of several servers as one page. Source: Prometheus, text exposition format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable


def merge_metrics(pages: Iterable[str]) -> str:
    """All families once each, with the samples of all pages below their help and type.

    Args:
        pages: metrics in which each family has a `# HELP` line before its `# TYPE` and samples, as all pages here have.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for page in pages:
        head: list[str] = []
        samples: list[str] = []
        for line in page.split("\n"):  # not splitlines(): a name may contain other line ends
            if line.startswith("# HELP "):
                head, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
            if line.startswith("#"):
                if line not in head:
                    head.append(line)
            elif line:
                samples.append(line)
    return "".join(f"{line}\n" for head, samples in families.values() for line in (*head, *samples))
