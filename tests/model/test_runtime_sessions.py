"""What the sessions of a process share."""

import pytest

from shoal.errors import ConfigError
from shoal.model.runtime_sessions import share_pool


def test_a_process_has_one_number_of_threads() -> None:
    share_pool(1)
    share_pool(1)
    with pytest.raises(ConfigError, match="already computes with 1 threads, not 3"):
        share_pool(3)
