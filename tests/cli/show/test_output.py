"""What a person reads who waits for measuring, in a pipe."""

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
