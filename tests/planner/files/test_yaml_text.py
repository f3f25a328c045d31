import pytest

from shoal.errors import ConfigError
from shoal.planner.files.yaml_text import parse_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a]\n"


def test_plain_data_comes_out():
    assert parse_yaml("a: [1, 2.5, x]\nb: {c: null}\n", "f.yaml") == {"a": [1, 2.5, "x"], "b": {"c": None}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "f.yaml is not YAML"),
        (BOMB, r"f.yaml is not YAML: \*a is an alias: write it out"),
        ("[" * 20_000, "f.yaml is nested too deeply"),
        ("a: 2001-02-30", "f.yaml: damaged .*day is out of range"),
        ("x: !!python/object/apply:os.system [ls]", "f.yaml is not YAML"),
    ],
)
def test_what_is_refused(text: str, says: str):
    with pytest.raises(ConfigError, match=says):
        parse_yaml(text, "f.yaml")
