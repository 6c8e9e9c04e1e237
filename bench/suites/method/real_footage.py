"""The part of docs/results.md about real footage, from stored figures: no clip, frame or weight is read or written.

`bench/results/crossval_NAME.json` is a copy of the crossval.json of recipes/NAME.yaml (``skd-edge crossval``);
`bench/results/weight_selection.json` is written by `bench/suites/training/weight_selection.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skd_edge.report.crossval.schema import ROLE_NAMES, CrossValidationReport

HEAD = """# Results

## Real footage

Two sets of camera video, cut into five folds of people or sequences that training never sees. Every clip is tested
once, by the fold that leaves its group out. Labels are those of the sets; nothing was made wrong. The linear models saw
grey pixels of one frame, or of frames and their differences, in the same folds.

| set | clips | classes | groups | linear, one frame | linear, differences |
|---|---|---|---|---|---|
| UT-Interaction: two people outdoors | 316 | 7: 20 clips each, "background" 196 | 20 sequences | 39 % balanced | 69 % |
| MIRACL-VC1, words: mouths, grey | 1,500 | 10, equal | 15 speakers | 25 % | 58 % |

```bash
UT_INTERACTION=/path/to/ut_interaction skd-edge crossval recipes/camera_ut.yaml
LIP_WORDS=/path/to/lip_words skd-edge crossval recipes/camera_lip.yaml
```

At 64 pixels, an estimated 35 and 80 minutes of one core; not run whole yet. For 112 pixels add
`--set clip.size=112 --set augment.shift=7` (about
three times as long). Actors of UT-Interaction return in other sequences in other clothes: its folds are of unseen
sequences, not strictly of unseen people. Both sets were published for research (M. S. Ryoo and J. K. Aggarwal,
UT-Interaction Dataset, 2010; A. Rekik, A. Ben-Hamadou and W. Mahdi, ICIAR 2014). Their terms could not be read, so this
project publishes figures only: no clip, frame or trained weights.
"""


_SELECTION_HEAD = """### Early stopping on a small set

`training.select` picks the weights of a training. Each fold of UT-Interaction has about 64 validation clips, so that
the best of its 15 validated epochs is partly luck. From each of {trainings} trainings of the student of `camera_ut` on
its labels ({seeds}, 5 folds) every rule picked its weights; `last` is the end of the training without a rule. Test
clips of all folds: {clips}, in {sequences} sequences. Optimism: validation accuracy minus test accuracy, in points. It
took {minutes:.0f} minutes on a busy machine.

```bash
UT_INTERACTION=/path/to/ut_interaction python -m bench.suites.training.weight_selection --seeds {count}
```
"""


def format_real_footage(results: Path) -> str:
    """The part as Markdown, with a table for each cross-validation that is stored in the folder ``results``."""
    parts = [HEAD]
    for file in sorted(results.glob("crossval_*.json")):
        parts.append(_format_crossval(CrossValidationReport.model_validate_json(file.read_text(encoding="utf-8"))))
    if (study := results / "weight_selection.json").exists():
        parts.append(_format_selection(json.loads(study.read_text(encoding="utf-8"))))
    return "\n".join(parts)


def _format_crossval(report: CrossValidationReport) -> str:
    lines = [
        f"### {report.name}, seed {report.seed}",
        "",
        f"{report.clips} clips in {report.groups} groups, {len(report.folds)} folds pooled.",
        "",
        "| on the clips left out | balanced accuracy, % [95 %, by group] | accuracy, % | macro-F1, % |",
        "|---|---|---|---|",
    ]
    for row in report.pooled:
        pairs = (
            (row.balanced_accuracy, row.balanced_interval),
            (row.accuracy, row.accuracy_interval),
            (row.macro_f1, row.macro_f1_interval),
        )
        cells = [f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for value, (low, high) in pairs]
        lines.append(f"| {ROLE_NAMES[row.role]} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _format_selection(study: dict[str, Any]) -> str:
    """The comparison of the rules of ``training.select``."""
    seeds = len(study["seeds"])
    seeds_text = f"{seeds} seed{'s' * (seeds > 1)}"
    numbers = {key: study[key] for key in ("trainings", "clips", "sequences", "minutes")}
    lines = [
        _SELECTION_HEAD.format(seeds=seeds_text, count=seeds, **numbers),
        "| rule | balanced accuracy, % [95 %, by sequence] | minus `best`, points [paired] | accuracy, % | optimism |",
        "|---|---|---|---|---|",
    ]
    for rule, row in study["rules"].items():
        value, low, high = (100 * v for v in row["balanced"])
        change, least, most = (100 * v for v in row["minus_best"]["balanced"])
        gap = "–" if rule == "best" else f"{change:+.1f} [{least:+.1f}, {most:+.1f}]"
        accuracy = 100 * row["accuracy"][0]
        lines.append(
            f"| {rule} | {value:.1f} [{low:.1f}, {high:.1f}] | {gap} | {accuracy:.1f} | {row['optimism_points']:+.1f} |"
        )
    return "\n".join([*lines, "", conclude_selection(study), ""])


def conclude_selection(study: dict[str, Any]) -> str:
    """One sentence: which rules are shown to differ from ``best``, by the interval of balanced accuracy."""
    others = {rule: row["minus_best"]["balanced"] for rule, row in study["rules"].items() if rule != "best"}
    better = [f"`{rule}`" for rule, (_, low, _) in others.items() if low > 0]
    worse = [f"`{rule}`" for rule, (_, _, high) in others.items() if high < 0]
    parts = [f"{' and '.join(better)} shown to be better than `best`"] if better else []
    parts += [f"{' and '.join(worse)} shown to be worse than `best`"] if worse else []
    if not parts:
        return "No rule is shown to differ from `best`, which stays the default."
    return f"{'; '.join(parts)[:1].upper()}{'; '.join(parts)[1:]}; the default is `best`."
