"""Writes the table "Do the numbers hold?" of docs/measuring.md.

    python -m bench.suites.latency.measuring_page

The numbers are the results of cross_check.py, aa_test.py and overhead.py, and of weight_dependence.py, which is gone.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from skd_bench.files import write_atomic

ROOT = Path(__file__).resolve().parents[3]
PAGE, RESULTS = ROOT / "docs/measuring.md", ROOT / "bench/results"
START, END = "<!-- table of measuring_page.py -->", "<!-- end of the table -->"
Json = dict[str, Any]
RUNTIMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}


def _format_count(verdict: Json) -> str:
    """For example ``1 of 100 [0%, 5%] (goal: at most 5%)``."""
    if not verdict["n"]:
        return f"no result: none of {verdict['held back by the load gate']} pairs passed the load gate"
    low, high = verdict["interval"]
    return f"{verdict['count']} of {verdict['n']} [{low:.0%}, {high:.0%}] (goal: {verdict['goal']})"


def _format_ratio(value: float, interval: list[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _format_ratios_to_random(weights: Json, kind: str) -> str:
    """Median and range of the ratios to random weights, over networks, precisions and runtimes."""
    ratios = sorted(row["ratio"] for row in weights["rows"] if row["weights"] == kind)
    inside = sum(abs(ratio - 1) <= weights["within"] for ratio in ratios)
    return (
        f"median {median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f} times; {inside} of {len(ratios)} "
        f"within {weights['within']:.0%}"
    )


def table(cross: Json, aa: Json, overhead: Json, weights: Json) -> str:
    """Format the Markdown table; every number comes from the results.

    Args:
        cross: ``bench/results/crosscheck.json``.
        aa: ``bench/results/aa.json``.
        overhead: ``bench/results/overhead.json``.
        weights: ``bench/results/weights.json``.
    """
    loads, found, device_info = [r["load"] for r in aa["repeats"]], aa["verdicts"], cross["device"]
    beside = f"`bench/suites/latency/aa_test.py --repeats {len(loads)}` (load {min(loads):.1f} to {max(loads):.1f})"
    against = {
        "bare": "a bare loop over `run_with_iobinding`, the same file, measured alternately",
        "polygraphy": "Polygraphy's `run --onnxrt`",
    }
    rows = [
        (
            f"ours against {words}",
            f"`bench/suites/latency/cross_check.py --rounds {len(cross['rounds'])}`",
            f"{_format_ratio(cross['ratios'][way]['ratio'], cross['ratios'][way]['interval'])} times "
            f"(goal: within {cross['ratios'][way]['goal']:.0%})",
        )
        for way, words in against.items()
    ]
    rows += [
        ("a file against itself: a difference is reported", beside, _format_count(found["A/A claims"])),
        (
            f"a file that takes {found['B/A'] - 1:.1%} longer: the difference is reported",
            "the same",
            _format_count(found["B found"]),
        ),
        (
            "the ratio's intervals of two consecutive repeats overlap",
            "the same",
            _format_count(found["ratios overlap"]),
        ),
        (
            "the intervals of absolute milliseconds of two consecutive repeats overlap",
            "the same",
            _format_count(found["absolute repeats overlap"]),
        ),
        (
            "the harness's own time for each query",
            "`bench/suites/latency/overhead.py`",
            f"{overhead['harness']['us_per_query']:.1f} microseconds (goal: 20)",
        ),
        *(
            (
                f"our session compared with {RUNTIMES[name]}'s raw call",
                "the same",
                f"{_format_ratio(row['ratio'], row['interval'])} times (goal: 1.05)",
            )
            for name, row in overhead["runner"].items()
        ),
        (
            "the pack for a device, without model files",
            "the same",
            f"{overhead['pack']['bytes'] / 1024:.0f} KiB, starts measuring "
            f"{overhead['pack']['seconds_to_measuring']:.2f} s after Python's start (goals: 1 MiB, 1 s)",
        ),
        *(
            (
                f"a file with {kind} weights compared with one with random weights",
                "`weight_dependence.py` of commit 8d2443b",
                _format_ratios_to_random(weights, kind),
            )
            for kind in ("other random", "trained", "zero")
        ),
    ]
    head = f"| question | command | result on {device_info['cpu']}, {device_info['cores_usable']} cores |"
    return "\n".join([head, "|---|---|---|", *(f"| {q} | {command} | {answer} |" for q, command, answer in rows)])


def main() -> None:
    """Replace the table between its two marks in the page."""
    parts = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("crosscheck", "aa", "overhead", "weights"))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    write_atomic(PAGE, f"{before}{START}\n{table(*parts)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
