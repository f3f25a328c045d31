"""What the kernels compute has the same bits for every instruction set that can be compiled and run here, arm64 under
qemu included."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.native.programs import TARGETS, run_program

HERE = Path(__file__).parent
NUM_HASHES = {"lanes_bits": 20, "product_bits": 38}
NUM_FORMS, NUM_DENSE_FORMS = 18, 3
"""of matrices in random_matrix.h, the dense ones first"""


@cache
def hashes(target: str, program: str) -> dict[str, str]:
    shown = run_program(target, HERE / f"{program}.cpp")
    return dict(line.rsplit(" ", 1) for line in shown.splitlines())


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    ("target", "program"),
    [
        *((target, "product_bits") for target in TARGETS if target != "baseline"),
        *((target, "lanes_bits") for target in ("avx2", "avx512vnni", "arm64")),  # on which the others have their lanes
    ],
)
def test_every_instruction_set(target: str, program: str) -> None:
    expected = hashes("baseline", program)
    assert len(expected) == len(set(expected.values())) == NUM_HASHES[program]
    assert hashes(target, program) == expected


BLOCK_PRODUCTS = st.tuples(
    st.integers(NUM_DENSE_FORMS, NUM_FORMS - 1),  # form
    st.integers(0, 1),  # whether activations are exact
    st.integers(1, 70),  # outputs
    st.integers(1, 20).map(lambda blocks: 32 * blocks),  # inputs
    st.one_of(st.integers(1, 40), st.integers(60, 140)),  # rows
    st.integers(0, 99),  # seed
)


@pytest.mark.sample(every=2)  # without amx-emulated, which takes 13 s to compile and computes what amx-trapped does
@pytest.mark.parametrize("target", ["amx", "amx-emulated", "amx-trapped", "arm64-i8mm"])
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(products=st.lists(BLOCK_PRODUCTS, min_size=4, max_size=12))
def test_sets_with_a_loop_of_their_own_for_many_rows(target: str, products: list[tuple[int, ...]]) -> None:
    """Products of any shape; the other sets are compared with NumPy in gemm/test_products.py."""
    arguments = [str(number) for product in products for number in product]
    shown = [run_program(one, HERE / "product_bits.cpp", arguments=arguments) for one in ("baseline", target)]
    assert shown[0].count("\n") == len(products)
    assert shown[0] == shown[1]
