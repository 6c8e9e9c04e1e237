"""Writes docs/method_study.md from the rows in bench/results/method.jsonl: means, intervals and recovered shares.

Every interval is a bootstrap on two levels, seeds and test clips. If each seed has its own test clips, they are
resampled for each seed; otherwise all seeds share one resample. Resampling n seeds gives only (n - 1) / n of the
variance, which is corrected. Rows of the same seed share their draws, so differences are paired. Baselines are compared
with the full method under Holm's correction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.suites.method.rows import BUDGETS, FACTORS, FAMILIES, GAPS, MATCHES, ROWS, TRIED, thesis_name, trial_name
from skd_bench.files import write_atomic

Json = dict[str, Any]
Draws = NDArray[np.float64]
DRAWS = 2000
FIXED = {"human_motion"}  # all seeds share their test clips; the generated set renders other clips for each seed
NAMES = {
    "clean": "clean labels",
    "sym20": "20 % symmetric noise",
    "sym40": "40 % symmetric noise",
    "class40": "40 % class-dependent noise",
    "voters": "five imperfect voters",
    "imbalanced": "20 % symmetric noise, one class 20 times as frequent",
}
HEAD = """# The method's study

Regenerate: `HUMAN_MOTION=/path/to/human_motion python -m bench.suites.method.run --data {data} --noise {noise} --rows
all --seeds {seeds}`, the thesis with `--rows thesis`, the tuning trials with `--rows trials` (resumable; rows:
`bench/results/method.jsonl`; this page: `--tables`).

The tables show test accuracy in % of the student `{student}` of each data set's recipe.

**Rows.** All rows have the same student epochs, views, schedule, loss weights and initial weights, except in tables
whose title says otherwise. The losses of the baselines KD, KD + LS and DIST come from torchdistill; confident learning
comes from cleanlab. "full" is what a recipe does by default; "full - x" and "full + x" switch one idea off or on. The
teacher of full has 2.3 times as many epochs as that of a baseline; the rows "teacher x 2.3" have as many. "all four
ideas" switches all ideas on, which was the default before this study.

**What was decided on which clips.** The label optimiser was developed on seeds 0 and 1 of the column with 40 %
symmetric noise. Which ideas are on by default was decided on test clips: on seeds 0 and 1 of the generated set (clean
and 40 %) and on seed 0 of human_motion, among about a dozen variants of the student's job. No baseline had as many
trials. Seeds from 2 on of the generated set and from 1 on of human_motion were not used for these decisions, but all
seeds of human_motion have the same test clips. The difficulty of the clips and the width of the student were chosen on
clean labels, seeds 0 to 4, with networks trained alone.

**Seconds** are the total training that a row needs, on {device}. Of rows with `paced` in the data they are steps times
the time of a step with nothing beside it, with validation, teacher outputs and the predictions that labels are
estimated from. Of older rows they were measured: these compare rows roughly, because a later row is cheaper if rows
share a cache, and those that ran beside heavy other work are marked (`paused`) and are not part of the median.

**Intervals** are 95 %, from a bootstrap on two levels, seeds and test clips; for n seeds, their variance is multiplied
by n / (n - 1). They were tested on simulated rows without any difference (`bench/suites/method/intervals.py`):
{calibration}. "full is ahead by" is paired; p is under Holm's correction over the baselines. In the tables with equal
seconds, the leading row is shown for the seeds that the other rows have.

**A few checked clips, labels of a weak model.** All columns below have noise that is scattered, and no clip that
somebody checked. What people have is labels of another model or of rules, and a few checked clips. The ground for that
stands, results do not exist yet: cells (`bench/suites/method/cells.py`) with labels of a weak model that was fitted on
clips of no split, or of keyword rules, and 0, 10 or 30 checked clips of each class, the same for every row. Its rows
(`bench/suites/method/baselines/`, one small file each): weak labels only, checked clips only, CFT, CFT then KD, GLC,
three lines (a network trained on the checked clips, times the noise matrix of their own weak labels), the same then KD
or then the method, FixMatch, DivideMix (reduced, see its file), KD and the method. No baseline sees a true label that
nobody checked (tested). All have equally many tuning trials, in a cell of their own; the factor of a row that is best
on validation clips there is used in all other cells. Two resumable commands:

```
python -m bench.suites.method.cells --cells generated-trials-10 --processes 2
HUMAN_MOTION=... LIP_WORDS=... python -m bench.suites.method.cells --processes 2    # --plan: hours of each cell
```

`noise-rec` is (X - B) / (C - B), where B is the same student on the weak labels and C on clean labels.
`gap-rec` is (X - B) / (T - B), where T is the teacher on clean labels.

"""


def unpack_correct(row: Json) -> NDArray[np.float64]:
    """Which test clips a row predicted correctly: ``(N,)`` of 0 and 1."""
    packed = np.frombuffer(bytes.fromhex(row["correct"]), np.uint8)
    return np.unpackbits(packed)[: row["clips"]].astype(np.float64)


class Column:
    """The rows of one data set with one kind of noise; they share their bootstrap draws."""

    def __init__(self, rows: Sequence[Json], same_clips: bool = False) -> None:
        self.same_clips = same_clips  # whether every seed is tested on the same clips
        self.rows_by_name: dict[str, dict[int, Json]] = {}
        for row in rows:
            self.rows_by_name.setdefault(row["row"], {})[row["seed"]] = row

    def limit_seeds(self, name: str, seeds: set[int]) -> Column:
        """A copy of this column with only some seeds of one row."""
        limited = Column((), self.same_clips)
        limited.rows_by_name = self.rows_by_name | {
            name: {s: row for s, row in self.rows_by_name.get(name, {}).items() if s in seeds}
        }
        return limited

    def draw_bootstrap(self, *names: str) -> tuple[list[float], list[Draws]] | None:
        """Mean and bootstrap draws of each row, over the seeds that all of them have; None if there are none."""
        if any(name not in self.rows_by_name for name in names):
            return None
        seeds = sorted(set.intersection(*(set(self.rows_by_name[name]) for name in names)))
        if not seeds:
            return None
        correct = {
            name: np.stack([unpack_correct(self.rows_by_name[name][s]) for s in seeds]) for name in names
        }  # (seeds, N) each
        return [float(x.mean()) for x in correct.values()], [
            bootstrap_accuracy(x, self.same_clips) for x in correct.values()
        ]


def bootstrap_accuracy(correct: NDArray[np.float64], same_clips: bool = False) -> Draws:
    """Accuracy of ``correct (seeds, N)`` in each bootstrap draw, ``(DRAWS,)``; equal shapes share their draws."""
    seeds, clips = correct.shape
    picked, counts = draw_resamples(seeds, clips, same_clips)
    each = np.stack([counts[:, place] @ correct.T for place in range(counts.shape[1])], axis=1)  # (DRAWS, place, seed)
    draws = np.take_along_axis(each, picked[:, :, None], axis=2).mean((1, 2)) / clips
    return correct.mean() + np.sqrt(seeds / max(seeds - 1, 1)) * (draws - correct.mean())


@lru_cache(maxsize=8)
def draw_resamples(seeds: int, clips: int, same_clips: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The seeds of each draw ``(DRAWS, seeds)``, and how often it has each clip ``(DRAWS, seeds or 1, clips)``."""
    rng = np.random.default_rng(0)
    picked = rng.integers(0, seeds, (DRAWS, seeds))
    sets = 1 if same_clips else seeds
    return picked, rng.multinomial(clips, np.full(clips, 1 / clips), (DRAWS, sets)).astype(np.float64)


def interval(draws: Draws) -> tuple[float, float]:
    """The middle 95 % of the draws."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def format_recovered_share(column: Column, name: str, top: str) -> str:
    """The share of the gap between the student alone and ``top`` that a row recovers, with its interval."""
    got = column.draw_bootstrap(name, "no KD", top)
    if got is None or name in ("no KD", top) or name.startswith("teacher"):
        return "–"
    (x, base, best), (dx, dbase, dbest) = got
    low, high = interval(dbest - dbase)
    if low <= 0 <= high:
        return "undefined"
    some = dbest != dbase
    below, above = interval((dx - dbase)[some] / (dbest - dbase)[some])
    return f"{100 * (x - base) / (best - base):.0f} [{100 * below:.0f}, {100 * above:.0f}]"


def holm(values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of p-values."""
    adjusted, worst = {}, 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, p * (len(values) - rank)))
        adjusted[name] = worst
    return adjusted


def format_leads(column: Column, champion: str = "full", names: Sequence[str] = ()) -> dict[str, str]:
    """How far a table's champion is ahead of each baseline, in points, with interval and Holm's p-value."""
    found: dict[str, tuple[float, Draws]] = {}
    for row in ROWS:
        got = column.draw_bootstrap(champion, row.name) if row.baseline and row.name in names else None
        if got is not None:
            found[row.name] = got[0][0] - got[0][1], got[1][0] - got[1][1]
    p = {
        name: min(1.0, 2 * max(float(min((d <= 0).mean(), (d >= 0).mean())), 1 / DRAWS))
        for name, (_, d) in found.items()
    }
    corrected, cells = holm(p), {}
    for name, (mean, d) in found.items():
        cells[name] = f"{100 * mean:+.1f} {format_interval(d, '+')}, p {corrected[name]:.3f}"
    return cells


def times_kd(column: Column, name: str) -> str:
    """Training seconds divided by those of KD: median over the seeds in which neither ran beside heavy other work."""
    calm = {
        n: {s: r["seconds"] for s, r in column.rows_by_name.get(n, {}).items() if not r.get("paused")}
        for n in (name, "KD")
    }
    both = calm[name].keys() & calm["KD"].keys()
    return f"{np.median([calm[name][s] / calm['KD'][s] for s in both]):.1f}" if both else "–"


def section(data: str, noise: str, column: Column) -> list[str]:
    """One column of the study: one table for each budget that has rows."""
    lines = [f"## {data}, {NAMES[noise]}", ""]
    for budget, (title, champion) in BUDGETS.items():
        names = [row.name for row in ROWS if row.budget == budget]
        if any(name in column.rows_by_name for name in names):
            shown = dict.fromkeys((*names, champion))
            others = set().union(*(column.rows_by_name.get(name, {}) for name in names if name != champion))
            limited = column.limit_seeds(champion, others) if others else column
            lines += [f"### {title}", "", *table(noise, limited, list(shown), champion)]
    return lines


def table(noise: str, column: Column, names: Sequence[str], champion: str) -> list[str]:
    """Format the existing rows of one column as a table."""
    top = "teacher, clean labels" if noise == "clean" else "no KD, clean labels"
    recovered, lead = ("gap-rec" if noise == "clean" else "noise-rec"), format_leads(column, champion, names)
    unequal = any("balanced" in row for name in names for row in column.rows_by_name.get(name, {}).values())
    titles = (
        "row",
        "test",
        "95 %",
        "seeds",
        f"{recovered} %",
        f"{champion} is ahead by",
        *["balanced"] * unequal,
        "macro-F1",
        "label accuracy",
        "seconds",
        "x KD",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in names:
        got = column.draw_bootstrap(name)
        if got is None:
            continue
        rows = [column.rows_by_name[name][s] for s in sorted(column.rows_by_name[name])]
        low, high = interval(got[1][0])
        each = ", ".join(f"{100 * r['test']:.1f}" for r in rows)
        seconds = [r["seconds"] for r in rows if not r.get("paused")]  # without rows that ran beside heavy other work
        means = {
            key: f"{100 * np.mean(values):.1f}" if (values := [r[key] for r in rows if key in r]) else "–"
            for key in ("balanced", "macro_f1", "labels")
        }
        lines.append(
            f"| {name} | {100 * got[0][0]:.1f} | {100 * low:.1f} to {100 * high:.1f} | {each} | "
            f"{format_recovered_share(column, name, top)} | {lead.get(name, '–')} | "
            f"{means['balanced'] + ' | ' if unequal else ''}{means['macro_f1']} | {means['labels']} | "
            f"{f'{np.median(seconds):.0f}' if seconds else '–'} | {times_kd(column, name)} |"
        )
    return [*lines, ""]


def format_pooled_lead(columns: dict[tuple[str, str], Column], name: str) -> str:
    """How far full is ahead of a row, over all columns: the mean over each (column, seed) with both, and their number.

    Columns and seeds are both resampled, crossed (Owen's pigeonhole bootstrap, arXiv 0711.3073), and clips within them.
    """
    cells: list[tuple[tuple[str, str], tuple[str, int]]] = []
    ahead: list[Draws] = []
    for key, column in columns.items():
        full, row = column.rows_by_name.get("full", {}), column.rows_by_name.get(name, {})
        for seed in sorted(full.keys() & row.keys()):
            cells.append((key, (key[0], seed)))
            full_correct, row_correct = unpack_correct(full[seed])[None], unpack_correct(row[seed])[None]
            ahead.append(
                np.append(
                    bootstrap_accuracy(full_correct) - bootstrap_accuracy(row_correct),
                    full_correct.mean() - row_correct.mean(),
                )
            )
    if not cells:
        return "–"
    draws, rng = np.stack(ahead), np.random.default_rng(0)  # (cells, DRAWS and the mean itself)
    weight = count_draws([key for key, _ in cells], rng) * count_draws([who for _, who in cells], rng)  # (cells, DRAWS)
    total = weight.sum(0)
    means = (weight * draws[:, :-1]).sum(0)[total > 0] / total[total > 0]
    return f"{100 * draws[:, -1].mean():+.1f} {format_interval(means, '+')} ({len(cells)})"


def count_draws(owners: Sequence[object], rng: np.random.Generator) -> Draws:
    """How often the owner (a column or a seed) of each cell is drawn: ``(cells, DRAWS)``."""
    number = {one: i for i, one in enumerate(dict.fromkeys(owners))}
    times = rng.multinomial(len(number), np.full(len(number), 1 / len(number)), DRAWS).astype(np.float64)
    return times[:, [number[one] for one in owners]].T


def overall_table(columns: dict[tuple[str, str], Column]) -> list[str]:
    """The first table of the page: full compared with every row, over all columns."""
    noisy = {key: column for key, column in columns.items() if key[1] != "clean"}
    clean = {key: column for key, column in columns.items() if key[1] == "clean"}
    lines = [
        "## Over all columns",
        "",
        "How far full is ahead of each row, in points at equal student epochs, paired. In brackets are the interval "
        "over columns, seeds and clips, and the number of pairs of column and seed. Rows do not all have the same "
        "columns, so compare the sizes only roughly.",
        "",
        "| row | full is ahead by, noisy columns | clean labels |",
        "|---|---|---|",
    ]
    for row in ROWS:
        shown = row.budget == "epochs" and row.name != "full" and not row.clean and not row.name.startswith("teacher")
        cells = [format_pooled_lead(some, row.name) for some in (noisy, clean)]
        if shown and cells != ["–", "–"]:
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return [*lines, ""]


def thesis_table(data: str, column: Column) -> list[str]:
    """A table of ways to distil, by structure of teacher and student; the best way of each line is bold."""
    ways = [("KD", 0), ("whole", 0), *(("curriculum", k) for k in MATCHES), *(("graft", k) for k in MATCHES if k > 1)]
    titles = ["structure", *(f"{way}, K = {k}" if k else way for way, k in ways), "best is ahead by"]
    lines = [
        f"## Does the best way depend on the structure? {data}, clean labels, no assistant",
        "",
        "KD is plain distillation. whole is what recipes do by default: KD and the correlation of all substages from "
        "the first step on. curriculum and graft use the distribution loss too. K is the number of matched substages. "
        "The last column is paired: how far the best way is ahead of KD or, if KD is best, how far KD is ahead of the "
        "second best way. The best way was selected on these numbers, so this column is biased upwards.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    empty = len(lines)
    for gap in GAPS:
        for family in FAMILIES:
            got = column.draw_bootstrap(*(thesis_name(way, gap, family, k) for way, k in ways))
            if got is None:
                continue
            means, draws = got
            best, *rest = np.argsort(means)[::-1]
            cells = [f"{100 * mean:.1f} {format_interval(draw)}" for mean, draw in zip(means, draws, strict=True)]
            cells[best] = f"**{cells[best]}**"
            over = 0 if best else rest[0]  # KD is the first way
            lead = f"{100 * (means[best] - means[over]):+.1f} {format_interval(draws[best] - draws[over], '+')}"
            lines.append(f"| {gap}, {family} | {' | '.join(cells)} | {lead} |")
    return [*lines, ""] if len(lines) > empty else []


def format_interval(draws: Draws, sign: str = "") -> str:
    """The 95 % interval of the draws in points, in brackets."""
    low, high = interval(draws)
    return f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def trials_table(data: str, noise: str, column: Column) -> list[str]:
    """A table of validation accuracy by weight, over the seeds that have all trials; the best weight is bold."""
    by = {
        (name, s): 100 * r["val"] for name, seeds in column.rows_by_name.items() for s, r in seeds.items() if "val" in r
    }
    factors = sorted((1.0, *FACTORS))
    lines = [
        f"## Equal tuning trials: {data}, {NAMES[noise]}",
        "",
        "Validation accuracy in % by weight, as a multiple of the default. The weight is that of the teacher's logits "
        "(default 2; that of the labels is 1), and in the rows with ELR that of its regularisation term (default 3).",
        "",
        "| row | seeds | " + " | ".join(f"x {f:g}" for f in factors) + " |",
        "|---|---|" + "---|" * len(factors),
    ]
    empty = len(lines)
    for name in TRIED:
        names = [trial_name(name, f) for f in factors]
        seeds = sorted({s for _, s in by if all((n, s) in by for n in names)})
        if seeds:
            means = [float(np.mean([by[n, s] for s in seeds])) for n in names]
            cells = (f"**{m:.1f}**" if m == max(means) else f"{m:.1f}" for m in means)
            lines.append(f"| {name} | {', '.join(map(str, seeds))} | {' | '.join(cells)} |")
    return [*lines, ""] if len(lines) > empty else []


def describe_calibration() -> str:
    """How often the intervals reported a difference in simulations without any."""
    rows = json.loads((Path(__file__).resolve().parents[2] / "results/method_intervals.json").read_text())["rows"]
    phrases = []
    for seed_deviation in sorted({row["spread_points"] for row in rows} - {0.0}):
        wrong = [100 * row["claims"] / row["studies"] for row in rows if row["spread_points"] == seed_deviation]
        phrases.append(
            f"{min(wrong):.0f} to {max(wrong):.0f} of 100 intervals if seeds vary by {seed_deviation:g} points"
        )
    return f"zero was outside {', and '.join(phrases)}"


def write_tables(rows: Sequence[Json], path: Path) -> None:
    """Write the page from all rows; does nothing without rows."""
    if not rows:
        return
    words = {
        "data": " ".join(sorted({r["data"] for r in rows})),
        "noise": " ".join(sorted({r["noise"] for r in rows})),
        "seeds": " ".join(str(s) for s in sorted({r["seed"] for r in rows})),
        "student": "small",
        "calibration": describe_calibration(),
        "device": ", ".join(sorted({f"{r['device']} ({r['threads']} thread(s), torch {r['torch']})" for r in rows})),
    }
    columns = {
        (data, noise): Column(column_rows, same_clips=data in FIXED)
        for data in sorted({r["data"] for r in rows})
        for noise in NAMES
        if (column_rows := [r for r in rows if (r["data"], r["noise"]) == (data, noise)])
    }
    lines = overall_table(columns)
    for (data, noise), column in columns.items():
        lines += section(data, noise, column)
        lines += trials_table(data, noise, column)
        if noise == "clean":
            lines += thesis_table(data, column)
    write_atomic(path, HEAD.format(**words) + "\n".join(lines))
