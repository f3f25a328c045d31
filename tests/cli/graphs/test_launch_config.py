"""What `--batch-dim` says."""

import pytest

from shoal.cli.graphs.launch_config import BatchDims, parse_batch_dims
from shoal.errors import ConfigError


def test_axes_inputs_without_rows_and_no_batch() -> None:
    assert parse_batch_dims(["state=1", "sr=none", "a=b=-1"]) == BatchDims(
        dims={"state": 1, "sr": None, "a=b": -1}, is_batched=True
    )
    assert parse_batch_dims(["none"]) == BatchDims(dims={}, is_batched=False)
    assert parse_batch_dims(None) == BatchDims(dims={}, is_batched=True)


@pytest.mark.parametrize("items", [["state"], ["=1"], ["state=x"], ["none", "state=1"], ["state="]])
def test_what_it_cannot_mean_is_refused(items: list[str]) -> None:
    with pytest.raises(ConfigError, match="--batch-dim"):
        parse_batch_dims(items)
