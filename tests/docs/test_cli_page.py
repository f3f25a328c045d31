"""docs/cli.md is what the command line says of itself."""

from tools.cli_page import PAGE, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "docs/cli.md is stale; run: make docs (or python -m tools.cli_page)"


def test_every_command_and_its_options_are_there() -> None:
    text = page()
    assert {"## shoal run", "## shoal serve", "## shoal bench chaos", "## shoal status"} <= set(text.splitlines())
    assert "| `--max-tokens N` | `512` |" in text
    assert "| `--output`, `-o PATH` |" in text
