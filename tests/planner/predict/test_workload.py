import pytest

from shoal.errors import ConfigError
from shoal.planner.predict.workload import Workload


def test_output_rows_look_back_on_the_prompt_and_half_of_the_output():
    workload = Workload(streams=1, prompt_tokens=10, output_tokens=5)
    contexts = [10 + token for token in range(1, 5)]  # of the four decode steps, their own row included
    assert workload.mean_decode_context == sum(contexts) / len(contexts)


@pytest.mark.parametrize("field", ["streams", "prompt_tokens", "output_tokens"])
def test_what_is_below_one_is_refused_by_name(field):
    with pytest.raises(ConfigError, match=field):
        Workload(**{field: 0})
