"""What a person reads who waits for measuring, in a pipe."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.table import Table

from shoal.cli.show.output import measuring, print_table
from shoal.cli.show.plan_output import note_figures
from shoal.planner.speeds.figures import Figures


def test_in_a_pipe_every_step_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    with measuring(way_out="; --split 1 skips this") as tell:
        tell("step 1 of 2: a")
        tell("step 2 of 2, about 3 s left: b")
    assert capfd.readouterr().err.splitlines() == [
        "measuring this machine with the model; the measurements are kept; --split 1 skips this",
        "step 1 of 2: a",
        "step 2 of 2, about 3 s left: b",
    ]


def test_nothing_is_said_where_nothing_is_measured(capfd: pytest.CaptureFixture[str]) -> None:
    with measuring():
        pass
    with measuring(quiet=True) as tell:
        tell("step 1 of 2: a")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("measures", [False, True])
def test_a_long_search_for_a_plan_is_not_silent(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, measures: bool
) -> None:
    timers: list[SteppedTimer] = []
    monkeypatch.setattr("shoal.cli.show.output.Timer", lambda *given: timers.append(SteppedTimer(*given)) or timers[-1])
    with measuring() as tell:
        if measures:
            tell("step 1 of 1: a")
        timers[0].let_it_end()
    timers[0].let_it_end()
    assert ("still planning" in capfd.readouterr().err) is not measures


class SteppedTimer:
    """A timer that ends when the test says so, unless it was canceled."""

    daemon = False

    def __init__(self, seconds: float, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._end: Callable[[], None] | None = lambda: function(*arguments)
        assert seconds > 1.0

    def start(self) -> None:
        """Nothing passes by itself."""

    def cancel(self) -> None:
        self._end = None

    def let_it_end(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()


def test_doubtful_figures_are_named_with_the_way_out(capfd: pytest.CaptureFixture[str]) -> None:
    note_figures(Figures(is_rough=False, others_share=0.2), "m.gguf")
    assert capfd.readouterr().err == ""
    note_figures(Figures(is_rough=True, others_share=0.43), "m.gguf")
    rough, disturbed = capfd.readouterr().err.splitlines()
    assert "`shoal plan m.gguf` measures it thoroughly" in rough
    assert disturbed.startswith("warning: other processes took 43% of the processor")
    assert "`shoal plan m.gguf --refresh` measures again" in disturbed


def test_names_are_no_markup(capfd: pytest.CaptureFixture[str]) -> None:
    names = ("node[a]", "[/bold]", "[red]rack[/red]", ":smile:")
    table = Table(title=names[0], title_justify="left")
    for name in names:
        table.add_column(name)
    table.add_row(*names)
    print_table(table)
    title, *lines = capfd.readouterr().out.splitlines()
    assert title.strip() == names[0]
    for name in names:
        assert sum(name in line for line in lines) == 2
