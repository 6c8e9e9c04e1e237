"""Keyword rules as voters: words in a clip's file name, title or tags become a vote for a class.

::

    labels:
      metadata: about.csv                       # clip,title,tags
      rules:
        - {label: wave, any: [wave, "wav* hand"], within: [file, title]}
        - {label: punch, all: [boxing], none: [video game], within: [title, tags], weight: 2}

Rules of one ``voter`` (default: ``rules``) are one annotator: of the classes that they speak for, the one with the
highest sum of weights is his vote; he abstains where no rule speaks or two classes are equal. One rule alone could
not be judged by Dawid-Skene: an annotator who only ever says one class is never seen to disagree with himself.

Texts and keywords become words by the same steps (Unicode folded, split at everything that is neither letter nor
digit and where ``camelCase`` turns), and a keyword is looked for as a substring: linear time, nothing to hang in.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from skd_edge.recipe.labels import KeywordRule

_CAMEL_CASE_TURN = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[^\W_]+")
_BUILT_IN_COLUMNS = ("file", "path")  # texts that every clip has


def list_metadata_columns(rules: Sequence[KeywordRule]) -> list[str]:
    """The columns that rules read, besides a clip's own name; each once, in order."""
    return [c for c in dict.fromkeys(c for rule in rules for c in rule.within) if c not in _BUILT_IN_COLUMNS]


def rule_votes(
    rules: Sequence[KeywordRule], clips: Sequence[str], texts: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """What each voter says of each clip.

    Args:
        rules: of the recipe.
        clips: N names, relative to the data's root.
        texts: for a clip its columns; a clip or a column that is not there holds no words.

    Returns:
        By voter, in order of first mention: N class names, empty for an abstention.
    """
    rules_with_keywords = [(rule, _parse_keywords(rule)) for rule in rules]
    votes: dict[str, list[str]] = {rule.voter: [] for rule in rules}
    for clip in clips:
        words = _normalise_clip_texts(clip, texts.get(clip, {}))
        sums: dict[str, dict[str, float]] = {voter: {} for voter in votes}
        for rule, keywords in rules_with_keywords:
            if _matches_keywords(keywords, "".join(words.get(w, "") for w in rule.within)):
                class_weights = sums[rule.voter]
                class_weights[rule.label] = class_weights.get(rule.label, 0.0) + rule.weight
        for voter, class_weights in sums.items():
            votes[voter].append(_choose_heaviest_class(class_weights))
    return votes


def normalise_words(text: str) -> str:
    """The words of a text, folded, each between spaces: `` apply eye makeup ``; a single space where there is none."""
    parted = _CAMEL_CASE_TURN.sub(" ", unicodedata.normalize("NFKC", text))
    return f" {' '.join(_WORD.findall(parted.casefold()))} "


def _normalise_clip_texts(clip: str, row: Mapping[str, str]) -> dict[str, str]:
    """Words by where they stand; a bar that no keyword holds keeps phrases within one text."""
    place = PurePosixPath(clip)
    return {c: f"{normalise_words(text)}|" for c, text in {**row, "file": place.stem, "path": clip}.items()}


def _parse_keywords(rule: KeywordRule) -> tuple[list[str], list[str], list[str]]:
    """Keywords as substrings of words: whole words, or beginnings of words where a keyword ends in ``*``."""
    any_, all_, none = (
        [normalise_words(k)[: -1 if k.rstrip().endswith("*") else None] for k in ks]
        for ks in (rule.any, rule.all, rule.none)
    )
    return any_, all_, none


def _matches_keywords(keywords: tuple[list[str], list[str], list[str]], text: str) -> bool:
    any_, all_, none = keywords
    found = not any_ or any(k in text for k in any_)
    return found and all(k in text for k in all_) and not any(k in text for k in none)


def _choose_heaviest_class(sums: Mapping[str, float]) -> str:
    """The class with the highest sum; none where two are equal (to nine digits: the order of a sum must not decide)."""
    ranked = sorted(sums, key=lambda label: -sums[label])
    if len(ranked) > 1 and round(sums[ranked[0]] - sums[ranked[1]], 9) == 0:
        return ""
    return ranked[0] if ranked else ""
