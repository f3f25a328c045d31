"""What `shoal plan --add` prints: a row an offer with its error bars, and the advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from shoal.cli.show.output import measuring, print_json, print_table
from shoal.cli.show.plan_output import describe_candidate
from shoal.config import LaunchConfig
from shoal.forecast.offers import PREDICTION_ERROR, MachineOffer, OfferComparison, compare_offers


def report_offers(config: LaunchConfig, file: Path, *, as_json: bool) -> None:
    """Compare the offers and say what came of it. Raises as `compare_offers`."""
    with measuring(quiet=as_json) as tell:
        found = compare_offers(config, file, tell)
    if as_json:
        print_json(offers_dict(found))
        return
    print(f"without any: {found.present_tokens_per_s:.1f} tokens/s")
    table = Table(title="one machine more", title_justify="left")
    for column in ("machine", "tokens/s", "at most", "gain", "between", "price/h", "tokens for 1", "best plan"):
        table.add_column(column, justify="left" if column in ("machine", "best plan") else "right")
    for offer in found.offers:
        table.add_row(offer.machine, *_cells(found, offer))
    print_table(table)
    print(
        f"between: nine of ten predictions err by no more than {PREDICTION_ERROR:.0%}; at most: no plan with this "
        f"machine exceeds that by the same figures\n{found.advice}"
    )


def offers_dict(found: OfferComparison) -> dict[str, Any]:
    """The comparison as plain data; an infinite gain (the model fits nowhere without the machine) is null."""
    return {
        "present_tokens_per_s": found.present_tokens_per_s,
        "prediction_error": PREDICTION_ERROR,
        "offers": [
            {
                "machine": offer.machine,
                "tokens_per_s": offer.tokens_per_s,
                "bound_tokens_per_s": offer.most_tokens_per_s,
                "gain": _finite(offer.gain),
                "least_gain": _finite(offer.least_gain),
                "most_gain": _finite(offer.most_gain),
                "price_per_hour": offer.price_per_hour,
                "tokens_per_price": found.tokens_per_price(offer),
                "is_worth_it": offer.is_worth_it,
                "plan": None if offer.choice is None else describe_candidate(offer.choice.best),
            }
            for offer in found.offers
        ],
        "advice": found.advice,
    }


def _cells(found: OfferComparison, offer: MachineOffer) -> tuple[str, ...]:
    if offer.choice is None:
        return ("does not fit", *("",) * 6)
    per_price = found.tokens_per_price(offer)
    is_known = _finite(offer.gain) is not None
    return (
        f"{offer.tokens_per_s:.1f}",
        f"{offer.most_tokens_per_s:.1f}",
        f"{offer.gain:+.0%}" if is_known else "all",
        f"{offer.least_gain:+.0%} and {offer.most_gain:+.0%}" if is_known else "",
        "" if offer.price_per_hour is None else f"{offer.price_per_hour:g}",
        "" if per_price is None else f"{per_price:.0f}",
        describe_candidate(offer.choice.best),
    )


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
