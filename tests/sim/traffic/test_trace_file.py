"""Traces in the layouts in which they are published, and what is no trace."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.sim.traffic.trace_file import read_trace
from shoal.sim.traffic.visit import HASHED_TOKENS, Visit, poisson

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01.017335+00:00,2399,6
"""
BURST_GPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1030, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3052, "input_length": 1040, "output_length": 12, "hash_ids": [0, 1, 3]}
"""
OURS = "at_s,prompt_tokens,output_tokens\n10,3,4\n12.5,5,6\n"


def read(tmp_path: Path, text: str) -> list[Visit]:
    path = tmp_path / "trace"
    path.write_text(text)
    return list(read_trace(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AZURE_2023, [(0.0, 4808, 10), (0.052, 3180, 8)]),
        (AZURE_2024, [(0.0, 2162, 5), (1.007405, 2399, 6)]),
        (BURST_GPT, [(0.0, 472, 18), (113.0, 417, 276)]),
        (MOONCAKE, [(0.0, 1030, 500), (3.052, 1040, 12)]),
        (OURS, [(0.0, 3, 4), (2.5, 5, 6)]),
        ("\ufeff" + OURS, [(0.0, 3, 4), (2.5, 5, 6)]),
    ],
    ids=["azure 2023", "azure 2024", "burstgpt", "mooncake", "ours", "with a byte order mark"],
)
def test_published_layouts_are_read(tmp_path: Path, text: str, expected: list[tuple[float, int, int]]) -> None:
    visits = read(tmp_path, text)
    assert [visit.at_s for visit in visits] == pytest.approx([at_s for at_s, _, _ in expected], abs=1e-5)
    sizes = [(visit.prompt_tokens, visit.output_tokens) for visit in visits]
    assert sizes == [(prompt, output) for _, prompt, output in expected]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when,how\n1,2\n", "unknown columns when, how; give at_s, prompt_tokens, output_tokens; TIMESTAMP"),
        ("", "unknown columns (none)"),
        ("at_s,prompt_tokens,output_tokens\n", "contains no request"),
        ("at_s,prompt_tokens,output_tokens\n1,x,2\n", "line 2: could not convert"),
        ("at_s,prompt_tokens,output_tokens\n1,5,2\n0,5,2\n", "line 3 is earlier than the line before"),
        ("at_s,prompt_tokens,output_tokens\n1,-5,2\n", "line 2: -5 prompt tokens"),
        ("at_s,prompt_tokens,output_tokens\nnan,5,2\n", "line 2: 5 prompt tokens at nan"),
        ("at_s,prompt_tokens,output_tokens\n\n\n1,x,2\n", "line 4: could not convert"),
        ('at_s,prompt_tokens,output_tokens\n1,"5,2\n' + "3,4,5\n" * 30_000, "field larger than field limit"),
        ('{"timestamp": 0}\n', "line 1: Object missing required field `input_length`"),
        ("a" * (1 << 21), "a line has more than"),
    ],
)
def test_what_is_no_trace_gets_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="trace") as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine is where clocks are put back on the last Sunday of October."""
    with monkeypatch.context() as context:
        context.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_dates_without_a_zone_mean_the_same_everywhere(tmp_path: Path) -> None:
    dates = ("2023-10-29 02:59:59", "2023-10-29 03:00:00")
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{date},1,1\n" for date in dates)
    assert [visit.at_s for visit in read(tmp_path, text)] == [0.0, 1.0]


def test_equal_hashes_are_equal_text_and_nothing_else_is(tmp_path: Path) -> None:
    one, other = (visit.request(number).prompt_ids for number, visit in enumerate(read(tmp_path, MOONCAKE)))
    assert (len(one), len(other)) == (1030, 1040)
    assert one[: 2 * HASHED_TOKENS] == other[: 2 * HASHED_TOKENS]
    assert not set(one[2 * HASHED_TOKENS :]) & set(other[2 * HASHED_TOKENS :])
    first, second = (visit.request(number).prompt_ids for number, visit in enumerate(read(tmp_path, OURS)))
    assert not set(first) & set(second)


def test_random_arrivals_have_their_rate_and_repeat_with_their_seed() -> None:
    visits = list(poisson(20.0, prompt_tokens=1, output_tokens=1, until_s=500.0, seed=1))
    assert len(visits) == pytest.approx(10_000, rel=0.05)
    assert visits == list(poisson(20.0, prompt_tokens=1, output_tokens=1, until_s=500.0, seed=1))
    assert visits != list(poisson(20.0, prompt_tokens=1, output_tokens=1, until_s=500.0, seed=2))
