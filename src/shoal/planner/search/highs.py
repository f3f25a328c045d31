"""Linear and integer programmes for HiGHS. SciPy has no types and takes a while to import: both stay in here.

Source: Huangfu and Hall, Parallelizing the dual revised simplex method, Mathematical Programming Computation 10 (2018).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from shoal.planner.search.problem import Floats, Ints


def linear_prices(values: Floats, takes: Floats, have: Floats) -> Floats:
    """Duals of: most value of non-negative amounts that take no more than there is.

    Shapes: V variables, R rows.

    Args:
        values: [V].
        takes: [R, V].
        have: [R].

    Returns:
        [R]: what one more of each would be worth.
    """
    optimize: Any = import_module("scipy.optimize")
    solved: Any = optimize.linprog(-values, A_ub=takes, b_ub=have, method="highs")
    return np.maximum(0.0, -np.asarray(solved.ineqlin.marginals, np.float64))


def least_cost(
    costs: Floats,
    *,
    rows: tuple[Floats, Floats, Floats],
    bounds: tuple[Floats, Floats],
    whole: Ints,
    relative_gap: float,
    max_nodes: int | None = None,
) -> Floats | None:
    """The cheapest values of variables, some of them whole numbers; None where there are none.

    Shapes: V variables, R rows.

    Args:
        costs: [V].
        rows: [R, V] factors; [R] least and [R] most of their sums.
        bounds: [V] least and [V] most of each variable.
        whole: [V]: 1 where the variable is a whole number, otherwise 0.
        relative_gap: how far above the least cost the answer may be.
        max_nodes: of the tree; None: no limit. Not seconds, so that the same input has the same answer.
    """
    optimize: Any = import_module("scipy.optimize")
    options: dict[str, float] = {"mip_rel_gap": relative_gap}
    if max_nodes is not None:
        options["node_limit"] = max_nodes
    solved: Any = optimize.milp(
        costs,
        integrality=whole,
        bounds=optimize.Bounds(*bounds),
        constraints=optimize.LinearConstraint(*rows),
        options=options,
    )
    return None if solved.x is None else np.asarray(solved.x, np.float64)
