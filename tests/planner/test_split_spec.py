import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.planner.split_spec import SplitSpec, parse_split


@pytest.mark.parametrize(
    ("text", "spec", "canonical"),
    [
        ("1", SplitSpec(), "1"),
        ("pp=2", SplitSpec(num_stages=2), "pp=2"),
        ("pp=10:20", SplitSpec(num_stages=2, stage_layers=(10, 20)), "pp=10:20"),
        ("dp=2", SplitSpec(num_replicas=2), "dp=2"),
        ("dp=2,pp=3", SplitSpec(num_replicas=2, num_stages=3), "dp=2,pp=3"),
        ("pp=3,dp=2", SplitSpec(num_replicas=2, num_stages=3), "dp=2,pp=3"),
        (" pp = 7 : 23 , dp = 2 ", SplitSpec(num_replicas=2, num_stages=2, stage_layers=(7, 23)), "dp=2,pp=7:23"),
        ("dp=1,pp=1", SplitSpec(), "1"),
    ],
)
def test_forms(text, spec, canonical):
    assert parse_split(text) == spec
    assert str(spec) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("auto", "auto is not available yet"),
        ("tp=2", "tp is not available yet"),
        ("dp=2,tp=3:1", "tp is not available yet"),
        ("qq=2", "'qq=2'"),
        ("2", "'2'"),
        ("", "cannot read ''"),
        ("dp=2,", "cannot read ''"),
        ("pp", "'pp='"),
        ("pp=", "'pp='"),
        ("pp=two", "'pp=two'"),
        ("pp=0", "at least 1"),
        ("pp=-2", "at least 1"),
        ("pp=1.5", "whole numbers"),
        ("pp=10:", "'pp=10:'"),
        ("pp=10:0", "at least 1"),
        ("dp=2:3", "'dp=2:3'"),
        ("dp=²", "whole numbers"),
        ("dp=99999999999999999999", "whole numbers"),
        ("dp=2,dp=3", "given twice"),
    ],
)
def test_mistakes_get_one_clear_line(text, says):
    with pytest.raises(ConfigError) as raised:
        parse_split(text)
    message = str(raised.value)
    assert says in message
    assert f"--split {text}" in message
    assert "\n" not in message


@given(
    st.integers(1, 99),
    st.one_of(st.integers(1, 99), st.lists(st.integers(1, 99), min_size=2, max_size=5)),
)
def test_canonical_form_parses_to_the_same(num_replicas, stages):
    if isinstance(stages, int):
        spec = SplitSpec(num_replicas=num_replicas, num_stages=stages)
    else:
        spec = SplitSpec(num_replicas=num_replicas, num_stages=len(stages), stage_layers=tuple(stages))
    assert parse_split(str(spec)) == spec
