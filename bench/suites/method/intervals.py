"""Measures how often the study's intervals report a difference between two rows that are equal on average.

    python -m bench.suites.method.intervals        # about 20 seconds; writes bench/results/method_intervals.json

Many studies are simulated, each with its own clips and seeds. The two rows differ on 30 % of the clips. Each seed
favours one of the rows at random.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.suites.method.tables import bootstrap_accuracy, interval
from skd_bench.files import write_json

STUDIES, CLIPS, DIFFER = 400, 400, 0.3
SEEDS = (2, 3, 5)  # numbers of seeds
SEED_DEVIATIONS = (0.0, 2.5, 5.0)  # standard deviation over seeds of the difference between the rows, in points


def simulate_study(
    seeds: int, seed_deviation: float, same_clips: bool, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Simulate the difference of two rows for each seed and clip: ``(seeds, CLIPS)`` of -1, 0 and 1, 0 on average."""
    kinds = rng.choice(
        [-1.0, 0.0, 1.0], CLIPS, p=[0.25, 0.5, 0.25]
    )  # if all seeds share their clips, some clips favour one row
    clip_bias = kinds * DIFFER / 2 if same_clips else np.zeros(CLIPS)
    ahead = (DIFFER + clip_bias + rng.normal(0, seed_deviation / 100, (seeds, 1))) / 2
    draw = rng.random((seeds, CLIPS))
    return (draw < ahead).astype(np.float64) - (draw > 1 - (DIFFER - ahead))


def main() -> None:
    """Count the intervals that do not contain zero."""
    rows = []
    for same_clips, seeds, seed_deviation in itertools.product((False, True), SEEDS, SEED_DEVIATIONS):
        rng = np.random.default_rng(0)
        spans = [
            interval(bootstrap_accuracy(simulate_study(seeds, seed_deviation, same_clips, rng), same_clips))
            for _ in range(STUDIES)
        ]
        claims = sum(low > 0 or high < 0 for low, high in spans)
        rows.append(
            {
                "same_clips": same_clips,
                "seeds": seeds,
                "spread_points": seed_deviation,
                "studies": STUDIES,
                "claims": claims,
            }
        )
        print(rows[-1], flush=True)
    write_json(Path(__file__).resolve().parents[2] / "results/method_intervals.json", {"rows": rows})


if __name__ == "__main__":
    main()
