from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.planner.split.split_spec import SplitSpec, parse_split


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
        ("dp=1,pp=1,tp=1", SplitSpec(), "1"),
        ("tp=2", SplitSpec(shares=(1, 1)), "tp=2"),
        ("tp=3:1", SplitSpec(shares=(3, 1)), "tp=3:1"),
        ("tp=6:2:4", SplitSpec(shares=(3, 1, 2)), "tp=3:1:2"),
        ("tp=7:7", SplitSpec(shares=(1, 1)), "tp=2"),
        ("tp = 2 : 1 , pp=2, dp=3", SplitSpec(num_replicas=3, num_stages=2, shares=(2, 1)), "dp=3,pp=2,tp=2:1"),
        ("tp=16", SplitSpec(shares=(1,) * 16), "tp=16"),
        ("ep=2", SplitSpec(shares=(1, 1), expert_shares=(1, 1)), "ep=2"),
        ("ep=6:2", SplitSpec(shares=(3, 1), expert_shares=(3, 1)), "ep=3:1"),
        ("tp=2,ep=3:1", SplitSpec(shares=(1, 1), expert_shares=(3, 1)), "tp=2,ep=3:1"),
        ("ep=2,tp=2:1", SplitSpec(shares=(2, 1), expert_shares=(1, 1)), "tp=2:1,ep=2"),
        (
            "dp=2,pp=2,ep=3",
            SplitSpec(num_replicas=2, num_stages=2, shares=(1,) * 3, expert_shares=(1,) * 3),
            "dp=2,pp=2,ep=3",
        ),
        ("ep=1", SplitSpec(), "1"),
    ],
)
def test_forms(text, spec, canonical):
    assert parse_split(text) == spec
    assert str(spec) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("auto,dp=2", "auto plans the whole split"),
        ("tpp=2", "'tpp=2' (did you mean tp?)"),
        ("auot", "'auot' (did you mean auto?); give auto, 1"),
        ("DP=2", "'DP=2'; give"),
        ("tp=17", "17 shards; there can be at most 16"),
        ("tp=" + ":".join("1" * 17), "17 shards"),
        ("tp=3:0", "'tp=3:0' needs whole numbers of at least 1"),
        ("tp=3:", "'tp=3:'"),
        ("tp=0.5", "whole numbers"),
        ("tp=2,tp=2", "tp is given twice"),
        ("tp=2,ep=3", "ep=3 deals experts to 3 shards, and tp=2 makes 2"),
        ("tp=2,ep=1", "ep=1 deals experts to 1 shards"),
        ("tp=1,ep=2", "tp=1 makes 1"),
        ("ep=17", "ep=17 makes 17 shards"),
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


specs = st.builds(
    lambda num_replicas, stages, shares: SplitSpec(
        num_replicas=num_replicas,
        num_stages=stages if isinstance(stages, int) else len(stages),
        stage_layers=None if isinstance(stages, int) else tuple(stages),
        shares=tuple(share // gcd(*shares) for share in shares),
    ),
    st.integers(1, 99),
    st.one_of(st.integers(1, 99), st.lists(st.integers(1, 99), min_size=2, max_size=5)),
    st.lists(st.integers(1, 99), min_size=1, max_size=16),
)


@given(specs)
def test_canonical_form_parses_to_the_same(spec):
    assert parse_split(str(spec)) == spec


@given(specs, st.randoms())
def test_the_axes_may_come_in_any_order(spec, random):
    parts = str(spec).split(",")
    random.shuffle(parts)
    assert parse_split(",".join(parts)) == spec


def test_workers_are_counted_over_all_axes():
    assert parse_split("dp=2,pp=3,tp=2:1:1").num_workers == 18
    assert parse_split("pp=4:5").num_workers == 2
