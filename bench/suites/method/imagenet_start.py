"""Measures what ImageNet weights bring on human_motion: trains EfficientNet-Lite0 with and without them.

    HUMAN_MOTION=/path/to/human_motion python -m bench.suites.method.imagenet_start --seeds 0 1 2 3 4

Writes bench/results/imagenet_start.json (one row for each seed and arm) and docs/imagenet_start.md. Labels are clean,
test clips are of the two held-out styles, and every network is trained alone; the recipe's own teacher is measured for
comparison. The settings ``SMALL`` use few labelled clips and take about twelve minutes on one core for each seed (with
all clips it takes 2.4 core-hours). ``--set`` replaces ``SMALL`` by other settings for all arms, for example
``--set clip.size=64``; ``--set seed=0`` leaves the recipe unchanged.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

from skd_bench.device.info import read_device_info
from skd_bench.files import write_atomic, write_json
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.trainer import TrainingInputs, predict, train_job
from skd_edge.execution.job_graph import JobFactory, fingerprint_of
from skd_edge.labels.dataset import load_training_data
from skd_edge.models.catalogue import describe_network
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import open_cache

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLE = ROOT / "bench/results/imagenet_start.json", ROOT / "docs/imagenet_start.md"
# Leaves 391 training clips of one style, with half of the frames.
SMALL = [
    "data.train={style: [active], split: [train]}",
    "data.val={style: [active], split: [val]}",
    "clip.frames=4",
    "training.batch=16",
    "training.rate=0.002",
    "training.teacher_epochs=8",
]
ARMS = {
    "the recipe's teacher (mobile, width 24), from the seed": "{family: mobile, width: 24}",
    "EfficientNet-Lite0, from the seed": "{family: efficientnet-lite0}",
    "EfficientNet-Lite0, from ImageNet": "{family: efficientnet-lite0, start: imagenet}",
    "EfficientNet-Lite0, from ImageNet, no operator in time": "{family: efficientnet-lite0, start: imagenet, "
    "temporal: none}",
}


def train_arm(teacher: str, seed: int, sets: list[str]) -> dict[str, object]:
    """Train one network alone on clean labels; returns accuracies in 0..1, parameters, MACs and seconds."""
    changes = ["labels.noise.kind=none", "schedule.controls=[]", "choice.budget=1000 ms", f"teacher={teacher}"]
    recipe = load_recipe(ROOT / "recipes/human_motion.yaml", [*changes, f"seed={seed}", *sets])
    training_data = load_training_data(recipe, open_cache())
    clips, preprocess = training_data.clips, inference_preprocessing(recipe.clip)[1]
    spec = JobFactory(recipe, fingerprint_of(training_data)).make_plain_teacher_job().spec
    targets = np.eye(len(clips.classes), dtype=np.float32)[clips.train.labels]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trained = train_job(spec, TrainingInputs(clips, targets, preprocess), Path(folder))
    assert trained.network is not None
    predictions = predict(trained.network, clips.test.unseal(), preprocess).argmax(1)
    network_summary = describe_network("", recipe.teacher, recipe.clip)
    return {
        "test": float((predictions == clips.test.labels).mean()),
        "val": trained.accuracy,
        "parameters": network_summary.parameters,
        "macs": network_summary.macs,
        "seconds": time.perf_counter() - began,
        "epochs": spec.epochs,
        "clip": recipe.clip.size,
    }


def table(rows: list[dict[str, object]], device_info: dict[str, object], sets: list[str]) -> str:
    """Format the page: mean and 95 % interval over seeds, and each seed."""
    words = "" if sets == SMALL else "".join(f" --set {shlex.quote(s)}" for s in sets)
    seeds = " ".join(str(seed) for seed in sorted({row["seed"] for row in rows}, key=str))
    lines = [
        "# What ImageNet weights bring",
        "",
        f"Regenerate: `python -m bench.suites.method.imagenet_start --seeds {seeds}{words}`",
        "",
        f"Device: {device_info.get('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}. Data set:",
        "human_motion, rendered motion capture (Bandai Namco Research Motion Dataset 2, CC BY-NC 4.0), clean labels.",
        "Test accuracy in % is on styles that were not used for training, validation accuracy on the style that was.",
        "Intervals: Student's t over seeds. The machine may have been busy with other work, which affects the seconds.",
        "The recipe was changed by:",
        "",
        *(f"- `{s}`" for s in sets),
        "",
        "| network | parameters | MACs of a clip | validation | test | 95 % interval | seeds | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ARMS:
        arm_rows = [row for row in rows if row["arm"] == name]
        if not arm_rows:
            continue
        values, n = 100 * np.array([row["test"] for row in arm_rows], float), len(arm_rows)
        half = f"±{t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n):.1f}" if n > 1 else "n/a"
        seconds = np.mean([float(str(row["seconds"])) for row in arm_rows])
        size = f"{arm_rows[0]['parameters']:,} | {int(str(arm_rows[0]['macs'])) / 1e6:.0f} M"
        each = ", ".join(f"{v:.1f}" for v in values)
        val = 100 * np.mean([float(str(row["val"])) for row in arm_rows])
        lines.append(f"| {name} | {size} | {val:.1f} | {values.mean():.1f} | {half} | {each} | {seconds:.0f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure missing rows, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--set",
        action="append",
        dest="sets",
        metavar="KEY=VALUE",
        help="a setting of the recipe; replaces all settings of SMALL",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="file for the rows; the page is written for the default only"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sets = options.sets or SMALL
    previous = json.loads(options.out.read_text()) if options.out.exists() else {"rows": [], "sets": sets}
    rows = previous["rows"] if previous["sets"] == sets else []
    device_info = read_device_info()
    for seed in options.seeds:
        for name, teacher in ARMS.items():
            if any(row["seed"] == seed and row["arm"] == name for row in rows):
                continue
            rows.append({"seed": seed, "arm": name} | train_arm(teacher, seed, sets))
            print(rows[-1], flush=True)
            write_json(options.out, {"device": device_info, "torch": torch.__version__, "sets": sets, "rows": rows})
    if options.out == RESULTS:
        write_atomic(TABLE, table(rows, device_info, sets))


if __name__ == "__main__":
    main()
