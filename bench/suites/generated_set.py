"""The generated set's own study: does one frame say anything, does the order of frames matter, how wide is the gap?

    python bench/suites/generated_set.py --seeds 0 1 2

Writes bench/results/generated_set.json (every seed's row) and docs/generated_set.md (the table). Labels are clean here:
the study is about the clips. Every network is trained as the control "alone" is in recipes/quickstart.yaml.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from skd_bench.device import device_card
from skd_bench.files import write_atomic, write_json
from skd_edge.data.gather import deployed_view, gather
from skd_edge.data.store import Clips, ClipSet
from skd_edge.distill.leg import predict, train_leg
from skd_edge.plan import facts_of
from skd_edge.recipe import Recipe
from skd_edge.recipe_file import load_recipe
from skd_edge.run import cache_root
from skd_edge.schedule.tree import grow

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE = ROOT / "bench/results/generated_set.json", ROOT / "docs/generated_set.md"


def frozen(clips: ClipSet, seed: int) -> ClipSet:
    """The middle frame, repeated."""
    middle = clips.clips.shape[1] // 2
    return replace(clips, clips=np.repeat(clips.clips[:, middle : middle + 1], clips.clips.shape[1], axis=1))


def shuffled(clips: ClipSet, seed: int) -> ClipSet:
    """The same frames in a random order, another one for each clip."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(clips.clips.shape[1]), (len(clips), 1)), axis=1)
    return replace(clips, clips=np.take_along_axis(clips.clips, order[:, :, None, None, None], axis=1))


CHANGES = {"all frames": lambda clips, seed: clips, "one frame": frozen, "shuffled frames": shuffled}


def accuracy(recipe: Recipe, learner: str, clips: Clips) -> float:
    """Test accuracy of one network of the recipe, trained alone on clean labels."""
    clean = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"controls": ("alone",), "paths": ((),)})})
    network = clean.networks[learner]
    facts = facts_of(gather(clean, cache_root()))
    node = next(n for n in grow(clean, facts, [network]) if n.leg.role == "alone")
    targets = np.eye(len(clips.classes), dtype=np.float32)[clips.train.labels]
    preprocess = deployed_view(recipe.clip)[1]
    with tempfile.TemporaryDirectory() as folder:
        trained = train_leg(node.leg, clips, targets, None, preprocess, Path(folder))
    return float((predict(trained.network, clips.test, preprocess).argmax(1) == clips.test.labels).mean())


def study(seed: int, sets: list[str]) -> dict[str, object]:
    """All rows of one seed; the clips are drawn anew with it."""
    recipe = load_recipe("quickstart", sets)
    recipe = recipe.model_copy(update={"seed": seed})
    noiseless = recipe.model_copy(update={"labels": recipe.labels.model_copy(update={"noise": recipe.labels.noise.model_copy(update={"kind": "none"})})})
    clips = gather(noiseless, cache_root()).clips
    row: dict[str, object] = {"seed": seed, "difficulty": recipe.data.difficulty}  # type: ignore[union-attr]
    for name, change in CHANGES.items():
        view = replace(clips, **{s: change(getattr(clips, s), seed) for s in ("train", "val", "test")})
        row[f"teacher, {name}"] = accuracy(noiseless, recipe.teacher.name, view)
        print(row, flush=True)
    for student in recipe.students:
        if student.width <= recipe.teacher.width:
            row[f"{student.name}, all frames"] = accuracy(noiseless, student.name, clips)
    print(row, flush=True)
    return row


def table(rows: list[dict[str, object]], card: dict[str, object]) -> str:
    """Markdown: mean, 95 % interval over seeds (Student's t) and every seed."""
    from scipy.stats import t

    seeds = [r["seed"] for r in rows]
    lines = ["# The generated set", "", "Regenerate: `python bench/suites/generated_set.py --seeds " + " ".join(map(str, seeds)) + "`", "",
             f"Device: {card.get('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}. Clean labels, ten classes "
             "(chance 10 %), test accuracy in %, difficulty and training as in `recipes/quickstart.yaml`.", "",
             "| network, input | mean | 95 % interval | seeds |", "|---|---|---|---|"]  # fmt: skip
    for name in [k for k in rows[0] if "," in k]:
        values = 100 * np.array([r[name] for r in rows], float)
        half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        each = ", ".join(f"{v:.1f}" for v in values)
        lines.append(f"| {name} | {values.mean():.1f} | ±{half:.1f} | {each} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Add the seeds that are missing, then write the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="sets")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    rows = [r for r in known["rows"] if r["seed"] not in options.seeds]
    for seed in options.seeds:
        rows.append(study(seed, options.sets))
        card = device_card()
        write_json(RESULTS, {"device": card, "torch": torch.__version__, "rows": rows})
    write_atomic(TABLE, table(sorted(rows, key=lambda r: r["seed"]), device_card()))


if __name__ == "__main__":
    main()
