"""Keyword rules as annotators: words in a clip's file name, title or tags become a vote for a class.

::

    labels:
      metadata: about.csv                       # clip,title,tags
      rules:
        - {label: wave, any: [wave, "wav* hand"], within: [file, title]}
        - {label: punch, all: [boxing], none: [video game], within: [title, tags], weight: 2}

All rules with the same ``voter`` (default: ``rules``) form one annotator. Its vote is the class with the highest sum of
weights of the matching rules. It abstains if no rule matches or two classes have equal sums. Rules are combined because
an annotator with a single rule would only ever vote for one class, and Dawid-Skene could not estimate its accuracy.

Texts and keywords are split into words in the same way: Unicode case folding, then a split at every character that is
neither a letter nor a digit, and within ``camelCase``. A keyword is then searched as a substring, in linear time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from skd_edge.recipe.labels import KeywordRule

_CAMEL_CASE_TURN = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[^\W_]+")
_BUILT_IN_COLUMNS = ("file", "path")  # derived from the clip's name, not read from the metadata


def list_metadata_columns(rules: Sequence[KeywordRule]) -> list[str]:
    """The metadata columns that the rules read; each once, in the order of the rules."""
    return [c for c in dict.fromkeys(c for rule in rules for c in rule.within) if c not in _BUILT_IN_COLUMNS]


def rule_votes(
    rules: Sequence[KeywordRule], clips: Sequence[str], texts: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Compute the votes of the rules on each clip.

    Args:
        rules: the rules of the recipe.
        clips: N clip names, relative to the data's root.
        texts: by clip, its metadata by column; a missing clip or column counts as empty text.

    Returns:
        By ``voter``, in the order of the rules: N class names, empty for an abstention.
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
    """Normalise a text to case-folded words, each between spaces; ``ApplyEyeMakeup`` becomes `` apply eye makeup ``.

    A text without words becomes spaces.
    """
    separated = _CAMEL_CASE_TURN.sub(" ", unicodedata.normalize("NFKC", text))
    return f" {' '.join(_WORD.findall(separated.casefold()))} "


def _normalise_clip_texts(clip: str, row: Mapping[str, str]) -> dict[str, str]:
    """The normalised words of each column; each ends with a bar, so that no phrase matches across two columns."""
    texts = {**row, "file": PurePosixPath(clip).stem, "path": clip}
    return {column: f"{normalise_words(text)}|" for column, text in texts.items()}


def _parse_keywords(rule: KeywordRule) -> tuple[list[str], list[str], list[str]]:
    """The keywords of a rule (any, all, none) as substrings to search: whole words, or prefixes for ``word*``."""
    any_, all_, none = (
        [normalise_words(k)[: -1 if k.rstrip().endswith("*") else None] for k in ks]
        for ks in (rule.any, rule.all, rule.none)
    )
    return any_, all_, none


def _matches_keywords(keywords: tuple[list[str], list[str], list[str]], text: str) -> bool:
    any_, all_, none = keywords
    matches_any = not any_ or any(k in text for k in any_)
    return matches_any and all(k in text for k in all_) and not any(k in text for k in none)


def _choose_heaviest_class(sums: Mapping[str, float]) -> str:
    """The class with the highest sum of weights; "" if there is none, or if two sums are equal."""
    ranked = sorted(sums, key=lambda label: -sums[label])
    # Rounded, because sums of equal weights in another order may differ in the last digit.
    if len(ranked) > 1 and round(sums[ranked[0]] - sums[ranked[1]], 9) == 0:
        return ""
    return ranked[0] if ranked else ""
