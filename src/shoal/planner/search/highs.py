"""Linear and integer programs solved with HiGHS by one thread, so that the same input gives the same answer.

HiGHS takes 0.4 s to import and most commands never need it, so it is imported when a function is called.

Source: Huangfu and Hall, Parallelizing the dual revised simplex method, Mathematical Programming Computation 10 (2018).
"""

from __future__ import annotations

from importlib import import_module
from itertools import accumulate
from typing import Any

import numpy as np

from shoal.arrays import F64, I64

_FEASIBLE = 2
"""Source: HiGHS, `SolutionStatus.kSolutionStatusFeasible`; the next three are of the same header."""
_ROW_WISE = 2
_MINIMIZE = 1
_ERROR = -1


def linear_prices(values: F64, takes: F64, have: F64) -> F64:
    """The shadow prices of the linear program: maximize values @ x with takes @ x <= have and x >= 0.

    Shapes: V variables, R rows.

    Args:
        values: [V] the value of each variable.
        takes: [R, V] what each variable takes of each row.
        have: [R] the available amounts.

    Returns:
        [R]: the value of one more of each row.
    """
    least: F64 = np.full(len(have), -np.inf)
    none: F64 = np.zeros(len(values))
    most: F64 = np.full(len(values), np.inf)
    fractions: I64 = np.zeros(len(values), np.int64)
    solver = _solver(-values, factors=takes, row_bounds=(least, have), bounds=(none, most), whole=fractions)
    solver.run()
    return np.maximum(0.0, -np.asarray(solver.getSolution().row_dual, np.float64))


def least_cost(
    costs: F64,
    *,
    rows: tuple[F64, F64, F64],
    bounds: tuple[F64, F64],
    whole: I64,
    relative_gap: float,
    max_nodes: int | None = None,
) -> F64 | None:
    """The values of variables, some of them whole numbers, with the least cost; None if none is feasible.

    Shapes: V variables, R rows.

    Args:
        costs: [V] the cost of each variable.
        rows: [R, V] factors; [R] least and [R] greatest values of their sums.
        bounds: [V] least and [V] greatest values of each variable.
        whole: [V] 1 if the variable must be a whole number, otherwise 0.
        relative_gap: how far above the least cost the answer may be, relative to it.
        max_nodes: the most nodes of the search tree; None: no limit. Not seconds, so that the same input has the same
            answer.
    """
    factors, least, most = rows
    solver = _solver(costs, factors=factors, row_bounds=(least, most), bounds=bounds, whole=whole)
    solver.setOptionValue("mip_rel_gap", relative_gap)
    if max_nodes is not None:
        solver.setOptionValue("mip_max_nodes", max_nodes)
    solver.run()
    if solver.getInfo().primal_solution_status != _FEASIBLE:
        return None
    return np.asarray(solver.getSolution().col_value, np.float64)


def _solver(costs: F64, *, factors: F64, row_bounds: tuple[F64, F64], bounds: tuple[F64, F64], whole: I64) -> Any:
    """HiGHS with a program to minimize, silent and without threads of its own. Shapes: as in `least_cost`.

    The public class `highspy.Highs` prints a banner from its constructor, which would spoil the output of `--json`, so
    this uses the class below it.
    """
    num_rows, num_variables = factors.shape
    row, column = np.nonzero(factors)
    in_rows: list[int] = (factors != 0).sum(axis=1).tolist()
    solver: Any = import_module("highspy")._core._Highs()
    for name, value in {"output_flag": False, "threads": 1, "parallel": "off"}.items():
        solver.setOptionValue(name, value)
    status = solver.passModel(
        num_variables,
        num_rows,
        len(row),
        _ROW_WISE,
        _MINIMIZE,
        0.0,
        *(np.asarray(values, np.float64) for values in (costs, *bounds, *row_bounds)),
        np.array([0, *accumulate(in_rows)][:-1], np.int32),
        column.astype(np.int32),
        factors[row, column].astype(np.float64),
        np.asarray(whole, np.int32),
    )
    assert int(status) != _ERROR, "HiGHS refuses the program"
    return solver
