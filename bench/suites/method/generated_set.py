"""Studies the generated set: is one frame enough, does the order of frames matter, and how large is the gap?

    python -m bench.suites.method.generated_set --seeds 0 1 2 3 4

The gap is that between teacher and students. Writes bench/results/generated_set.json (one row for each seed) and
docs/generated_set.md. Labels are clean, because the study is about the clips. Every network is trained like the
controls of recipes/quickstart.yaml: the teacher for ``teacher_epochs``, students for ``epochs``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from skd_bench.device.info import read_device_info
from skd_bench.files import write_atomic, write_json
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipDataset, ClipSplit
from skd_edge.distill.prediction import predict
from skd_edge.distill.trainer import TrainingInputs, train_job
from skd_edge.execution.job_graph import JobFactory, fingerprint_of
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.data import GeneratedData
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import open_cache

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLE = ROOT / "bench/results/generated_set.json", ROOT / "docs/generated_set.md"


def repeat_middle_frame(clips: ClipSplit, seed: int) -> ClipSplit:
    """Replace all frames of each clip by its middle frame."""
    middle = clips.clips.shape[1] // 2
    return replace(clips, clips=np.repeat(clips.clips[:, middle : middle + 1], clips.clips.shape[1], axis=1))


def shuffle_frames(clips: ClipSplit, seed: int) -> ClipSplit:
    """Shuffle the frames of each clip, each clip in a different order."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(clips.clips.shape[1]), (len(clips), 1)), axis=1)
    return replace(clips, clips=np.take_along_axis(clips.clips, order[:, :, None, None, None], axis=1))


CHANGES = {"all frames": lambda clips, seed: clips, "one frame": repeat_middle_frame, "shuffled frames": shuffle_frames}


def measure_accuracy(recipe: Recipe, learner: str, clips: ClipDataset) -> float:
    """Train one network of the recipe on the labels only, and return its test accuracy in 0..1."""
    job_factory = JobFactory(recipe, fingerprint_of(load_training_data(recipe, open_cache())))
    job = (
        job_factory.make_plain_teacher_job()
        if learner == recipe.teacher.name
        else job_factory.make_labels_only_job(recipe.networks[learner])
    )
    targets = np.eye(len(clips.classes), dtype=np.float32)[clips.train.labels]
    preprocess = inference_preprocessing(recipe.clip)[1]
    with tempfile.TemporaryDirectory() as folder:
        trained = train_job(job.spec, TrainingInputs(clips, targets, preprocess), Path(folder))
    return float((predict(trained.network, clips.test.unseal(), preprocess).argmax(1) == clips.test.labels).mean())


def study(seed: int, sets: list[str]) -> dict[str, object]:
    """Measure one seed; returns its row. The seed also decides which clips are generated."""
    recipe = load_recipe("quickstart", [f"seed={seed}", "labels.noise.kind=none", "schedule.controls=[alone]", *sets])
    assert isinstance(recipe.data, GeneratedData)
    clips = load_training_data(recipe, open_cache()).clips
    row: dict[str, object] = {"seed": seed, "difficulty": recipe.data.difficulty}
    for name, change in CHANGES.items():
        view = replace(clips, **{s: change(getattr(clips, s), seed) for s in ("train", "val", "test")})
        row[f"teacher, {name}"] = measure_accuracy(recipe, recipe.teacher.name, view)
        print(row, flush=True)
    for student in ("small", "medium"):
        row[f"{student} student, all frames"] = measure_accuracy(recipe, student, clips)
    print(row, flush=True)
    return row


def table(rows: list[dict[str, object]], device_info: dict[str, object]) -> str:
    """Format the page: mean, interval over seeds, and every seed."""
    from scipy.stats import t

    seeds = " ".join(str(r["seed"]) for r in rows)
    both = np.array([[r["teacher, all frames"], r["small student, all frames"]] for r in rows], float)
    gap = 100 * (both[:, 0] - both[:, 1])
    gaps = ", ".join(f"{g:.1f}" for g in gap)
    device = f"{device_info.get('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    lines = [
        "# The generated set",
        "",
        f"Regenerate: `python -m bench.suites.method.generated_set --seeds {seeds}`",
        "",
        f"Device: {device}. Test accuracy in %, with clean labels and ten classes (chance is 10 %).",
        "Difficulty and training are those of `recipes/quickstart.yaml`; every network is trained alone.",
        f"Intervals: Student's t over seeds. The teacher is {gap.mean():.1f} points above the small student ({gaps}).",
        "",
        "| network, input | mean | 95 % interval | seeds |",
        "|---|---|---|---|",
    ]
    for name in [k for k in rows[0] if "," in k]:
        values = 100 * np.array([r[name] for r in rows], float)
        n, each = len(values), ", ".join(f"{v:.1f}" for v in values)
        half = f"±{t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n):.1f}" if n > 1 else "n/a"
        lines.append(f"| {name} | {values.mean():.1f} | {half} | {each} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure the requested seeds, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", action="append", default=[], dest="sets")
    options = parser.parse_args()
    previous = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    rows = [r for r in previous["rows"] if r["seed"] not in options.seeds]
    device_info = read_device_info()
    for seed in options.seeds:
        rows.append(study(seed, options.sets))
        write_json(RESULTS, {"device": device_info, "torch": torch.__version__, "rows": rows})
    write_atomic(TABLE, table(sorted(rows, key=lambda r: r["seed"]), device_info))


if __name__ == "__main__":
    main()
