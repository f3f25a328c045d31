"""Files that say what goes wrong, and what is wrong with them."""

import pytest

from shoal.errors import ConfigError
from shoal.planner.files.fault_file import DescribedFault, parse_fault_file

TEXT = """
faults:
  - {at_s: 900, machine: server-5, kind: return}
  - {at_s: 300, machine: server-5, kind: cable}
  - {at_s: 1e1, replica: 0, worker: 1, kind: hang}
"""


def test_faults_come_in_the_order_of_their_times() -> None:
    assert parse_fault_file(TEXT, "f.yaml") == (
        DescribedFault(at_s=10.0, replica=0, worker=1, kind="hang"),
        DescribedFault(at_s=300.0, machine="server-5", kind="cable"),
        DescribedFault(at_s=900.0, machine="server-5", kind="return"),
    )


def test_an_empty_file_is_no_list_of_faults() -> None:
    with pytest.raises(ConfigError, match=r"f.yaml is empty; give `faults:` with a list, or `faults: \[\]` for none"):
        parse_fault_file("", "f.yaml")
    assert parse_fault_file("faults: []", "f.yaml") == ()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("{at_s: 1, machine: m, kind: burn}", "the kinds are kill, hang, cable, return"),
        ("{at_s: -1, machine: m, kind: kill}", "fault 1: at_s is -1"),
        ("{at_s: .inf, machine: m, kind: kill}", "fault 1: at_s is inf"),
        ("{at_s: 1, kind: kill}", "fault 1: give either machine"),
        ("{at_s: 1, kind: kill, replica: 1}", "fault 1: give either machine"),
        ("{at_s: 1, kind: kill, machine: m, replica: 1, worker: 0}", "fault 1: give either machine"),
        ("{at_s: 1, kind: kill, machine: m, when: now}", "unknown field `when`"),
    ],
)
def test_what_makes_no_sense_gets_one_line(fault: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fault_file(f"faults: [{fault}]", "f.yaml")
    assert str(caught.value).startswith("f.yaml: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
