"""`shoal simulate --plot`: latencies and load over time, with the losses marked. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from shoal.errors import ConfigError, MissingExtra
from shoal.forecast.simulate import Simulated
from shoal.out_files import whole_file
from shoal.planner.files.fault_file import DescribedFault

_ENDINGS = (".png", ".svg", ".pdf")
_WINDOWS = 120
"""Stretches of time of which each has its percentiles."""
_FEWEST = 5
"""Requests of a stretch below which it has none."""


def check_plot(path: Path, *, is_sampled: bool) -> None:
    """Refuse what cannot be drawn, before anything is simulated. Raises ConfigError."""
    if is_sampled:
        raise ConfigError("--plot draws the whole time, most of which --sample skips: give only one of them")
    if path.suffix not in _ENDINGS:
        raise ConfigError(f"--plot {path}: use a name that ends in {', '.join(_ENDINGS)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}")
    if find_spec("matplotlib") is None:
        raise MissingExtra("--plot needs matplotlib", "plot")


def plot_simulation(result: Simulated, faults: Sequence[DescribedFault], path: Path) -> None:
    """Draw two panels over time. Raises CapacityError where the file cannot be written."""
    from matplotlib.figure import Figure

    log = result.log
    arrived_s, ttft_s, e2e_s = (np.asarray(column, np.float64) for column in (log.arrived_s, log.ttft_s, log.e2e_s))
    edges = np.linspace(0.0, max(result.outcome.duration_s, 1e-9), _WINDOWS + 1)
    window = np.clip(np.digitize(arrived_s, edges) - 1, 0, _WINDOWS - 1)
    middles = (edges[:-1] + edges[1:]) / 2
    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name, seconds in (("time to first token", ttft_s), ("end to end", e2e_s)):
        for percentile, style in ((50, "-"), (99, ":")):
            curve = [
                np.percentile(own, percentile) if len(own := seconds[window == index]) >= _FEWEST else np.nan
                for index in range(_WINDOWS)
            ]
            above.plot(middles, curve, style, label=f"{name}, p{percentile}")
    above.set_ylabel("seconds")
    above.set_ylim(bottom=0)
    above.legend(loc="upper right")
    below.plot(middles, np.bincount(window, minlength=_WINDOWS) / (edges[1] - edges[0]))
    below.set_ylabel("answered requests/s")
    below.set_xlabel("seconds")
    below.set_ylim(bottom=0)
    for fault in faults:
        for panel in (above, below):
            panel.axvline(fault.at_s, color="gray", linewidth=0.8)
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."))
