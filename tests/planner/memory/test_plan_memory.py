"""How much KV memory is reserved where nobody has said: the figures of docs/decisions/0018."""

import pytest

from shoal.planner.memory.plan_memory import default_kv_bytes, default_kv_tokens

GIB = 1 << 30
BYTES_PER_TOKEN = 1 << 15


@pytest.mark.parametrize(
    ("max_seqs", "max_context", "tokens"),
    [
        (32, 4096, 32 * 1024),  # 1024 tokens of each sequence are more than 4 of the longest
        (32, 8192, 32 * 1024),  # as much either way
        (32, 131072, 4 * 131072),  # a few of the longest contexts, not 32 of them
        (4, 8192, 4 * 8192),  # all of them, where they are so few
        (1, 8192, 8192),
        (32, 512, 32 * 512),  # no more than they can ever use
    ],
)
def test_room_for_a_few_long_sequences_or_for_all_at_a_usual_length(
    max_seqs: int, max_context: int, tokens: int
) -> None:
    assert default_kv_tokens(max_seqs, max_context) == tokens


def test_room_for_the_expected_load() -> None:
    assert default_kv_tokens(32, 4096, at_least=100_000) == 100_000
    assert default_kv_tokens(32, 4096, at_least=100) == 32 * 1024


def test_each_replica_has_its_room() -> None:
    one = default_kv_bytes(32 * 1024, BYTES_PER_TOKEN, num_replicas=1, free_bytes=64 * GIB)
    assert one == GIB
    assert default_kv_bytes(32 * 1024, BYTES_PER_TOKEN, num_replicas=3, free_bytes=64 * GIB) == 3 * GIB


@pytest.mark.parametrize(("free_bytes", "kv_bytes"), [(2 * GIB, GIB), (GIB, GIB // 2), (1, 0), (0, 0), (-GIB, 0)])
def test_at_most_half_of_what_weights_leave(free_bytes: int, kv_bytes: int) -> None:
    assert default_kv_bytes(64 * 1024, BYTES_PER_TOKEN, num_replicas=1, free_bytes=free_bytes) == kv_bytes
