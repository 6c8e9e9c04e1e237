"""What each augmentation costs: time of a batch with it, relative to a batch with the default augmentations.

python -m bench.suites.training.augmentation_cost [--size 64] [--out bench/results/augmentation_cost.json]

All variants are measured in turn in one process, so that the ratios hold on a machine that is busy; the milliseconds do
not.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from skd_bench.files import write_json
from skd_bench.video.types import Preprocessing
from skd_edge.data.augmentation import augment_batch
from skd_edge.recipe.sections import AugmentationSettings

_VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "flip": {"flip": True},
    "scale": {"scale": 0.3},
    "time": {"time": 0.3},
    "saturation": {"saturation": 0.3},
    "reverse": {"reverse": True},
    "all": {"flip": True, "scale": 0.3, "time": 0.3, "saturation": 0.3, "reverse": True},
}


def measure(size: int, frames: int, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one batch (median), and the median ratio to the default of the same round, by variant."""
    rng = np.random.default_rng(0)
    clips, ids = rng.integers(0, 256, (batch, frames, size, size, 3), np.uint8), np.arange(batch)
    preprocess = Preprocessing(size, size, "crop", (0.45,) * 3, (0.225,) * 3)
    settings = {name: AugmentationSettings.model_validate(changed) for name, changed in _VARIANTS.items()}
    spent: dict[str, list[float]] = {name: [] for name in settings}
    for number in range(rounds + 1):
        for name, augment in settings.items():
            began = time.perf_counter()
            augment_batch(clips, ids, number, augment, preprocess)
            if number:  # the first round warms up
                spent[name].append(1000 * (time.perf_counter() - began))
    plain = np.asarray(spent["default"])
    return {
        name: {"ms": round(float(np.median(ms)), 3), "ratio": round(float(np.median(np.asarray(ms) / plain)), 2)}
        for name, ms in spent.items()
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("bench/results/augmentation_cost.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = {"size": arguments.size, "frames": 8, "batch": 32}
    variants = measure(**shape, rounds=60)
    write_json(arguments.out, {**shape, "threads": 1, "torch": torch.__version__, "variants": variants})
    for name, row in variants.items():
        print(f"{name:12}{row['ms']:9.2f} ms{row['ratio']:7.2f} x")


if __name__ == "__main__":
    main()
