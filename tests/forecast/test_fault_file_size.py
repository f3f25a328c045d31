"""A list of faults is read within bounds, whatever file it is."""

from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.forecast.simulate import read_fault_file


def test_what_is_no_small_file_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/dev/zero has more than 16,777,216 bytes"):
        read_fault_file(Path("/dev/zero"))
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        read_fault_file(tmp_path / "none.yaml")
    (tmp_path / "faults.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_fault_file(tmp_path / "faults.yaml")
