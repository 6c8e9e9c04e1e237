"""Four sample reports, from a full one to a minimal one; all numbers are made up.

`python tests/skd_edge/report/sample.py FOLDER` writes them to run folders and renders them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ["left", "right", "up", "down", "clockwise", "counter-clockwise", "grow", "shrink", "blink", "orbit"]
STUDENTS = {"narrow": (2.31, 198_000), "wide": (5.94, 721_000), "broad": (11.8, 1_610_000)}
ACCURACY = {
    ("narrow", "direct"): 0.772,
    ("narrow", "assistant"): 0.789,
    ("wide", "direct"): 0.846,
    ("wide", "assistant"): 0.859,
}
WHY = {
    "chosen": "fastest of those not worse than the best by more than 1.0 point",
    "best": "most accurate, but 1.7 times slower for 0.4 points, which may be chance",
    "slower": "another candidate is both faster and more accurate",
    "small": "11.3 points below the best candidate",
    "budget": "over the budget: 11.8 ms against 8.42 ms, so it was not trained",
}


def around(share: float, n: int = 300) -> list[float]:
    """The 95 % interval of a share of n clips, by the normal approximation."""
    half = 1.96 * (share * (1 - share) / n) ** 0.5
    return [round(max(0.0, share - half), 4), round(min(1.0, share + half), 4)]


def candidate(student: str, path: str, precision: str) -> dict[str, Any]:
    """One candidate; those of the student `broad` are over the budget and not trained."""
    p50, size = STUDENTS[student]
    if precision == "int8":
        p50, size = p50 * (0.76 if student == "broad" else 0.63), size * 28 // 100
    p50 *= 1.0 if path == "direct" else 1.004
    trained = student != "broad"
    accuracy = round(ACCURACY[student, path] - (0.004 if precision == "int8" else 0), 4) if trained else None
    names = ["teacher", *([path] if path != "direct" else []), student]
    chosen = (student, path, precision) == ("wide", "assistant", "int8")
    best = (student, path, precision) == ("wide", "assistant", "fp32")
    why = "chosen" if chosen else "best" if best else "small" if student == "narrow" else "slower"
    convolutions = {"QLinearConv": 21, "ConvInteger": 0, "QLinearAdd": 6} if precision == "int8" else {"FusedConv": 21}
    return {
        "name": f"{'>'.join(names[1:])} {precision}",
        "path": names,
        "student": student,
        "precision": precision,
        "runtime": "ort",
        "accuracy": accuracy,
        "interval": around(accuracy) if accuracy else None,
        "macro_f1": round(accuracy - 0.006, 4) if accuracy else None,
        "p50_ms": round(p50, 3),
        "p50_interval": [round(p50 * 0.975, 3), round(p50 * 1.045, 3)],
        "p90_ms": round(p50 * 1.16, 3),
        "p99_ms": round(p50 * 1.52, 3) if trained else None,
        "bytes": size,
        "accuracy_per_ms": round(100 * accuracy / p50, 3) if accuracy else None,
        "trained": trained,
        "eligible": trained,
        "on_front": trained and (path == "assistant" or precision == "int8"),
        "chosen": chosen,
        "reason": WHY[why] if trained else f"over the budget: {p50:.1f} ms against 8.42 ms, so it was not trained",
        "parity": None
        if not trained
        else {
            "agreement": 1.0 if precision == "fp32" else 0.987,
            "max_abs": 3.1e-6 if precision == "fp32" else 0.412,
            "cosine": 1.0 if precision == "fp32" else 0.99941,
            "accuracy_drop": 0.0 if precision == "fp32" else 0.4,
            "n": 300,
            "flips": [] if precision == "fp32" else [{"clip": i, "margin": 0.04} for i in range(4)],
        },
        "operators": {"Transpose": 2, "Mul": 4, "GlobalAveragePool": 1, "Gemm": 1} | convolutions if trained else None,
        "job": f"{student}{path}0123456789"[:12] if trained else None,
    }


def job(path: list[str], role: str, accuracy: float | None, **more: Any) -> dict[str, Any]:
    """One job with a plausible training curve."""
    epochs = 14 if role == "teacher" else 12
    curve = [
        {
            "epoch": e + 1,
            "loss": 2.3 * 0.82**e,
            "accuracy": accuracy - 0.55 * 0.7**e + 0.006 * (-1) ** e,
            "terms": {"labels": 1.1 * 0.9**e, "logits": 0.8 * 0.85**e},
        }
        for e in range(epochs)
        if accuracy
    ]
    return {
        "job": "".join(path)[:10] + role[:2],
        "learner": path[-1],
        "teacher": "".join(path[:-1])[:10] + ("te" if len(path) == 2 else "as") if len(path) > 1 else None,
        "path": path,
        "role": role,
        "accuracy": accuracy,
        "interval": around(accuracy) if accuracy else None,
        "gain": None,
        "gain_over": "the same network trained alone",
        "seconds": 41.7 if role == "teacher" else 18.2,
        "epochs": epochs,
        "state": "trained",
        "reason": "",
        "curve": curve,
    } | more


def jobs() -> list[dict[str, Any]]:
    """Two cascades to each of two students, a third student over the budget, and the controls."""
    pruned = {"state": "pruned", "epochs": None, "seconds": None, "reason": WHY["budget"]}
    return [
        job(["teacher"], "teacher", 0.881, state="cached", reason="found in the cache, trained 2026-11-20"),
        job(["teacher", "assistant"], "assistant", 0.871, gain=4.3),
        job(["teacher", "narrow"], "student", 0.772, gain=4.9),
        job(["teacher", "wide"], "student", 0.846, gain=5.3),
        job(["teacher", "broad"], "student", None, **pruned),
        job(["teacher", "assistant", "narrow"], "student", 0.789, gain=6.6),
        job(["teacher", "assistant", "wide"], "student", 0.859, gain=6.6),
        job(["teacher", "assistant", "broad"], "student", None, **pruned),
        job(["narrow"], "control", 0.723),
        job(["wide"], "control", 0.793),
        job(["teacher", "wide"], "control", 0.821),
    ]


def confusion(n: int = 40) -> list[list[int]]:
    """A confusion matrix with mistakes mostly between opposite motions."""
    dice = np.random.default_rng(3)
    matrix = np.zeros((len(CLASSES), len(CLASSES)), dtype=int)
    for i in range(len(CLASSES)):
        shares = np.full(len(CLASSES), 0.008)
        shares[i] = 0.86 - 0.12 * (i % 3 == 1)
        shares[i ^ 1] += 0.07 + 0.06 * (i % 3 == 1)
        matrix[i] = dice.multinomial(n, shares / shares.sum())
    return [[int(v) for v in row] for row in matrix]


def per_class(matrix: list[list[int]]) -> list[dict[str, Any]]:
    """Precision, recall and F1 from the matrix."""
    m = np.array(matrix)
    rows = []
    for i, name in enumerate(CLASSES):
        precision, recall = m[i, i] / m[:, i].sum(), m[i, i] / m[i].sum()
        f1 = 2 * precision * recall / (precision + recall)
        scores = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
        rows.append({"class": name, "support": int(m[i].sum())} | scores)
    return rows


def labels() -> dict[str, Any]:
    """1200 clips with 40 % wrong labels."""
    dice = np.random.default_rng(4)
    before, after = dice.dirichlet([60] * 10), dice.dirichlet([300] * 10)
    return {
        "n": 1200,
        "classes": 10,
        "noise_estimate": 0.383,
        "accuracy_before": 0.6,
        "accuracy_after": 0.837,
        "changed": 341,
        "unchanged": 762,
        "uncertain": 97,
        "class_shares_before": dict(zip(CLASSES, before.tolist(), strict=True)),
        "class_shares_after": dict(zip(CLASSES, after.tolist(), strict=True)),
        "examples": [
            {
                "clip": "train/left/clip-00417.mp4",
                "weak": "left",
                "pseudo": "orbit",
                "confidence": 0.94,
                "why": "three of four views and the nearest prototype are orbit",
            },
            {
                "clip": "train/grow/clip-00021.mp4",
                "weak": "grow",
                "pseudo": "grow",
                "confidence": 0.99,
                "why": "all agree with the weak label",
            },
            {
                "clip": "train/clockwise/clip-00833.mp4",
                "weak": "clockwise",
                "pseudo": "counter-clockwise",
                "confidence": 0.71,
                "why": "the margin is small, so the label stays soft",
            },
        ],
    }


def device() -> dict[str, Any]:
    """Device info as skd_bench writes it."""
    return {
        "cpu": {"model": "Intel(R) Xeon(R) Processor @ 2.80GHz", "cores": 2, "flags": ["avx2", "fma"], "vnni": False},
        "governor": None,
        "memory_gb": 24.0,
        "load_average": [0.42, 0.61, 0.55],
        "os": "Debian GNU/Linux 12 (bookworm), Linux 6.1",
        "python": "3.11.7",
        "runtimes": {"onnxruntime": "1.32.0"},
        "threads": 1,
        "gpu": None,
        "temperature": None,
        "energy": "not measurable here: no RAPL counter is readable",
        "id": "7c1f0a92",
    }


def full_result() -> dict[str, Any]:
    """The report of a run with every part."""
    dice = np.random.default_rng(7)
    paths = ("direct", "assistant")
    candidates = [candidate(s, p, q) for s in STUDENTS for p in paths for q in ("fp32", "int8")]
    samples = {}
    for c in (c for c in candidates if c["trained"]):
        drawn = c["p50_ms"] * (0.94 + dice.gamma(1.3, 0.06, 1200))
        samples[c["name"]] = np.round(drawn, 3).tolist()
        for q in (50, 90, 99):
            c[f"p{q}_ms"] = round(float(np.percentile(drawn, q)), 3)
    chosen = next(c for c in candidates if c["chosen"])
    matrix = confusion()
    return {
        "schema": 1,
        "name": "quickstart",
        "created": "2026-11-22T13:48:05Z",
        "version": "0.1.0",
        "seed": 0,
        "seconds": 238.4,
        "headline": "Ship assistant>wide int8: 85.5 % at 3.76 ms, 4.5 times faster than the teacher for 2.6 points.",
        "chosen": {
            key: chosen[key]
            for key in ("name", "path", "student", "precision", "runtime", "accuracy", "interval", "p50_ms", "p90_ms")
        }
        | {
            "p99_ms": chosen["p99_ms"],
            "bytes": chosen["bytes"],
            "why": "The FP32 file is 0.4 points more accurate, within the margin of 1.0 point, but 1.6 times slower; "
            "all faster candidates lose more than 6 points.",
        },
        "metric": "accuracy",
        "budget": {"text": "0.5 x teacher", "ms": 8.42},
        "candidates": candidates,
        "baselines": [
            {
                "name": "teacher fp32",
                "path": ["teacher"],
                "student": "teacher",
                "precision": "fp32",
                "runtime": "ort",
                "accuracy": 0.881,
                "interval": around(0.881),
                "macro_f1": 0.878,
                "p50_ms": 16.84,
                "p50_interval": [16.5, 17.6],
                "p90_ms": 18.9,
                "p99_ms": 23.1,
                "bytes": 5_630_000,
                "accuracy_per_ms": 5.23,
                "trained": True,
                "eligible": False,
                "reason": "the reference",
            }
        ],
        "jobs": jobs(),
        "labels": labels(),
        "data": {
            "train": 1200,
            "val": 300,
            "test": 400,
            "classes": CLASSES,
            "quarantined": [
                {"path": "train/orbit/clip-00099.mp4", "reason": "zero bytes"},
                {"path": "train/up/holiday film é.mp4", "reason": "no video stream: the file is text"},
            ],
            "split_note": "Rendered clips: every clip has its own seed, no source is shared between the splits.",
            "copies": [
                {
                    "clip": "v/<b>1.mp4",
                    "split": "val",
                    "original": "t/1.mp4",
                    "original_split": "train",
                    "kind": "near",
                },
                {"clip": "e/2.mp4", "split": "test", "original": "t/2.mp4", "original_split": "train", "kind": "equal"},
            ],
        },
        "test": {
            "accuracy": 0.8475,
            "interval": around(0.8475, 400),
            "macro_f1": 0.845,
            "per_class": per_class(matrix),
            "confusion": matrix,
            "looks": 1,
            "hash": "9b74c9897bac770f",
            "rows": [
                {"name": name, "accuracy": share, "interval": around(share, 400)}
                for name, share in (
                    ("teacher", 0.875),
                    ("wide alone, weak labels", 0.785),
                    ("wide with KD", 0.8125),
                    ("wide with skd-edge", 0.8475),
                )
            ],
            "ece": 0.046,
            "reliability": [
                {"n": n, "confidence": c, "accuracy": a, "interval": around(a, n)}
                for n, c, a in ((9, 0.37, 0.33), (21, 0.44, 0.42), (40, 0.57, 0.5), (90, 0.76, 0.71), (240, 0.97, 0.98))
            ],
        },
        "resolution": {
            "n": 300,
            "points": 4.0,
            "text": "With 300 validation clips, an accuracy of 86 % is known to about ±4.0 points.",
        },
        "latency_samples": samples,
        "batch_sweep": sweep(),
        "device": device(),
        "licences": {"data": "CC0: rendered by this program", "weights": "trained here, Apache-2.0"},
        "notes": ["INT8 on AVX2 without VNNI: quantised with reduce_range.", "The teacher came from the cache."],
        "recipe": "name: quickstart\nseed: 0\ndata:\n  kind: generated\nchoice:\n  budget: 0.5 x teacher\n",
    }


def unequal_result() -> dict[str, Any]:
    """A run on classes of unequal sizes that was decided by balanced accuracy."""
    raw = full_result()
    for row in (*raw["candidates"], *raw["baselines"], *raw["test"]["rows"], raw["test"], raw["chosen"]):
        if (accuracy := row["accuracy"]) is not None:
            row |= {"balanced_accuracy": round(accuracy - 0.2, 4), "balanced_interval": around(accuracy - 0.2)}
    data = raw["data"] | {"unequal_classes": True}
    return raw | {"metric": "balanced", "headline": "", "data": data}


def sweep() -> dict[str, Any]:
    """Two files at growing batch sizes: the throughput rises and levels out."""
    return {
        f"assistant>wide {precision}": [
            {
                "batch": b,
                "p50_ms": round(ms * (0.25 + 0.75 * b), 3),
                "p50_interval": [round(ms * (0.25 + 0.75 * b) * e, 3) for e in (0.97, 1.05)],
                "clips_per_second": round(1000 * b / (ms * (0.25 + 0.75 * b)), 2),
            }
            for b in (1, 2, 4, 8, 16)
        ]
        for precision, ms in (("fp32", 5.96), ("int8", 3.76))
    }


def minimal_result() -> dict[str, Any]:
    """The smallest valid report."""
    return {"schema": 1, "name": "least"}


def unlucky_result() -> dict[str, Any]:
    """No candidate meets the budget, the test set was not evaluated, and the true labels are unknown."""
    result = full_result()
    for one in result["candidates"]:
        one |= {"chosen": False, "eligible": False, "reason": "over the budget of 0.50 ms"}
    labels_ = result["labels"] | {"accuracy_before": None, "accuracy_after": None}
    return result | {
        "chosen": None,
        "headline": "Nothing to ship: no candidate takes at most 0.50 ms.",
        "budget": {"text": "0.5 ms", "ms": 0.5},
        "test": None,
        "labels": labels_,
        "latency_samples": {},
        "batch_sweep": {},
    }


def hostile_result() -> dict[str, Any]:
    """Every text contains HTML, and there are sixty classes."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>|`x`</script>"
    names = [f'{evil}{i} $x$ %{{y}} <a href="http://evil.example">a</a>' for i in range(60)]

    def inject(value: Any) -> Any:
        if isinstance(value, str):
            return (
                value
                if value in {"fp32", "int8", "control", "pruned", "cached", "accuracy"}
                else f"{value} {evil} \ud800"
            )
        if isinstance(value, list):
            return [inject(item) for item in value]
        return {key: inject(item) for key, item in value.items()} if isinstance(value, dict) else value

    result: dict[str, Any] = inject(full_result())
    size = len(names)
    matrix = [[9 if i == j else int((i + j) % 7 == 0) for j in range(size)] for i in range(size)]
    rows = [{"class": name, "support": 9, "precision": 0.5, "recall": float("nan"), "f1": None} for name in names]
    result["test"] |= {"per_class": rows, "confusion": matrix}
    result["labels"] |= {
        "class_shares_before": dict.fromkeys(names, 1 / size),
        "class_shares_after": {name: (i + 1) / 1830 for i, name in enumerate(names)},
    }
    result["device"] |= {evil: {evil: [evil]}}
    result["latency_samples"] = {f"{evil}{i}": [1.0 + i, 2.0 + i, 3.0 + i] for i in range(12)}
    result["batch_sweep"] = {evil + name: points for name, points in result["batch_sweep"].items()}
    return result


if __name__ == "__main__":
    from skd_edge.report.html import render_run

    for make in (full_result, minimal_result, unlucky_result, hostile_result):
        folder = Path(sys.argv[1]) / make.__name__.removesuffix("_result")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(make()))
        print(*render_run(folder), sep="\n")
