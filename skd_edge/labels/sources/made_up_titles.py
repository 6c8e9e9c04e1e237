"""Label noise of keyword rules, for studies: made-up titles of the clips, and the rules that label clips by them.

Each class has keywords of its own. A title consists of filler words and, if rules are to label the clip, a keyword of
its class, or a keyword of another class, which makes the label wrong. A title with keywords of two classes is a
conflict: the rule with the larger weight wins, so that it goes wrong for the same pairs of classes every time. The real
rules of ``labels.rules`` read the titles, so everything else is as in a recipe with rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skd_edge.labels.sources.keyword_rules import rule_votes
from skd_edge.recipe.labels import KeywordRule, NoiseSettings

Ints = NDArray[np.int64]
_KEYWORDS = 3  # of each class
_HABIT_SHARE = 0.5  # share of the wrong keywords that come from one habitual other class
_FILLERS = ("clip", "my", "best", "new", "take", "two", "outside", "again")
Title = tuple[str, ...]


def label_by_titles(
    names: Sequence[str], labels: Ints, classes: Sequence[str], noise: NoiseSettings, seed: int
) -> Ints:
    """Label clips by rules on made-up titles.

    Args:
        names: names of the N clips.
        labels: ``(N,)`` true class indices, -1 for unlabelled clips, which get no keyword.
        classes: the C class names.
        noise: error rate, share of abstentions, share of conflicts.
        seed: draws titles and weights.

    Returns:
        ``(N,)`` class indices, -1 where no rule matches. Exactly ``round(abstain * labelled)`` of the labelled clips
        have no label, and exactly ``round(rate * rest)`` of the others a wrong one.
    """
    weights = draw_rule_weights(len(classes), seed)
    titles = make_up_titles(labels, weights, noise, seed)
    rules = make_keyword_rules(classes, weights)
    texts = {name: {"title": " ".join(title)} for name, title in zip(names, titles, strict=True)}
    index = {"": -1} | {name: i for i, name in enumerate(classes)}
    return np.array([index[vote] for vote in rule_votes(rules, names, texts)["rules"]], np.int64)


def draw_rule_weights(classes: int, seed: int) -> Ints:
    """The weight of each class's rule ``(C,)``: 1 to C, each once, so that no conflict is a draw."""
    return np.random.default_rng((seed, 40_968)).permutation(classes) + 1


def make_keyword_rules(classes: Sequence[str], weights: Ints) -> tuple[KeywordRule, ...]:
    """The rule of each class."""
    return tuple(
        KeywordRule(label=name, any=_list_keywords(c), within=("title",), weight=float(weights[c]))
        for c, name in enumerate(classes)
    )


def make_up_titles(labels: Ints, weights: Ints, noise: NoiseSettings, seed: int) -> list[Title]:
    """Make up a title for each clip; arguments are those of ``label_by_titles``."""
    classes, rng = len(weights), np.random.default_rng((seed, 40_969))
    habit = rng.integers(1, classes, classes)
    known = rng.permutation(np.flatnonzero(labels >= 0))
    labelled = known[round(noise.abstain_share * len(known)) :]
    wrong = set(rng.permutation(labelled)[: round(noise.rate * len(labelled))].tolist())
    conflicting = set(rng.permutation(labelled)[: round(noise.conflicts * len(labelled))].tolist())
    named: dict[int, list[int]] = {}  # by clip: the classes whose keywords its title has
    for clip in np.sort(labelled).tolist():
        true = int(labels[clip])
        step = habit[true] if rng.random() < _HABIT_SHARE else rng.integers(1, classes)
        other = int((true + step) % classes)
        if clip not in conflicting:
            named[clip] = [other if clip in wrong else true]
            continue
        heavier = weights > weights[true]
        rivals = np.flatnonzero(heavier if clip in wrong else weights < weights[true])
        if len(rivals):
            named[clip] = [true, other if other in rivals else int(rng.choice(rivals))]
        else:  # no rule is heavier than that of the heaviest class, none lighter than that of the lightest
            named[clip] = [other if clip in wrong else true]
    return [_write_title(named.get(clip, []), rng) for clip in range(len(labels))]


def _write_title(named: Sequence[int], rng: np.random.Generator) -> Title:
    words = [str(w) for w in rng.choice(_FILLERS, 2, replace=False)]
    words += [_list_keywords(c)[min(rng.geometric(0.6), _KEYWORDS) - 1] for c in named]
    return tuple(words[i] for i in rng.permutation(len(words)))


def _list_keywords(c: int) -> tuple[str, ...]:
    return tuple(f"keyword{c}{'abc'[k]}" for k in range(_KEYWORDS))
