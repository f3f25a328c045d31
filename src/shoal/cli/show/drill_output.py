"""What `shoal drill` prints: each loss as it ends, then the table; or one JSON object."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from shoal.bench.drill.run import DrillReport, DrillRow
from shoal.cli.show.output import note, print_table


def print_row(row: DrillRow) -> None:
    """One loss, as soon as it is over."""
    note(f"{row.target.name}, {row.how}: a pause of {row.seen_s:.2f} s, predicted {row.predicted_s:.2f} s")


def print_drill(report: DrillReport) -> None:
    """All losses."""
    table = Table(title="drill", title_justify="left")
    for column in ("machine", "what", "taken by", "foretold", "seen", "error"):
        table.add_column(column, justify="left" if column in ("machine", "what", "taken by") else "right")
    for row in report.rows:
        cells = (f"{row.predicted_s:.2f} s", f"{row.seen_s:.2f} s", f"{row.error:.0%}")
        what = "all its workers" if row.target.worker is None else row.target.name
        table.add_row(row.target.machine or "here", what, row.how, *cells)
    print_table(table)
    print(f"median error {report.median_error:.0%}; requests lost: {report.num_lost} of {report.num_requests}")
    if report.first_error is not None:
        note(f"the first lost request: {report.first_error}")


def drill_dict(report: DrillReport) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "losses": [
            {
                "replicas": row.target.replicas,
                "worker": row.target.worker,
                "machine": row.target.machine,
                "how": row.how,
                "predicted_s": row.predicted_s,
                "seen_s": row.seen_s,
                "error": row.error,
            }
            for row in report.rows
        ],
        "median_error": report.median_error,
        "requests": report.num_requests,
        "lost": report.num_lost,
        "first_error": report.first_error,
    }
