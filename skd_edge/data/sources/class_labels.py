"""Labels of lists as class names: a label is a name, or an index into the class file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skd_bench.errors import UserError
from skd_bench.listing.class_names import normalise_class_name
from skd_edge.data.sources.listing import read_lines, suggest_class

LabelReading = Literal["names", "indices"]


@dataclass(frozen=True)
class ListedLabel:
    """A label as it is listed, and its place (``file:line``); the text is empty for an unlabelled clip."""

    text: str
    at: str


def read_class_file(root: Path, file: Path | None) -> tuple[str, ...]:
    """The class names of a class file, one a line, in order; empty without a file.

    Raises:
        UserError: The file cannot be read, or names a class twice.
    """
    if file is None:
        return ()
    first: dict[str, int] = {}
    for number, line in read_lines(root / file):
        name = normalise_class_name(line)
        if (before := first.setdefault(name, number)) != number:
            raise UserError(
                f"{root / file}:{number}: class {name!r} is named in line {before} already; remove one line"
            )
    return tuple(first)


def resolve_labels(
    labels: Iterable[ListedLabel], classes: tuple[str, ...], reading: LabelReading | None, file: Path | None
) -> list[str]:
    """Return the class name of each label of a list. All labels are read the same way: as names, or as indices.

    Args:
        labels: of all splits, as listed.
        classes: the names of the class file; empty without one: then each label is its class's name.
        reading: how the recipe says that labels are read (``data.labels_are``); None: as the labels allow it.
        file: the class file, for error messages.

    Returns:
        The names, in the order of ``labels``; "" for an unlabelled clip.

    Raises:
        UserError: A label is not in the class file; or the labels can be read in both ways, with different results.
    """
    listed = [ListedLabel(normalise_class_name(each.text), each.at) for each in labels]
    if not classes:
        return [each.text for each in listed]
    names = set(classes)
    texts = {each.text for each in listed} - {""}
    numbers = {text for text in texts if text.isdecimal()}
    fit_names, fit_indices = texts <= names, texts == numbers and all(_is_index(text, classes) for text in texts)
    if reading is None and fit_names and fit_indices:
        if differing := sorted(text for text in texts if classes[int(text)] != text):
            raise UserError(
                f"the labels are numbers, and {file} names classes by numbers: label {differing[0]} may be the class "
                f"{differing[0]!r}, or the class at this place of the file, {classes[int(differing[0])]!r}; set "
                "data.labels_are to names or to indices"
            )
        return [each.text for each in listed]
    by_name = reading == "names" or (reading is None and (fit_names or not numbers))
    return [_resolve_label(each, classes, by_name, reading, file) for each in listed]


def _resolve_label(
    label: ListedLabel, classes: tuple[str, ...], by_name: bool, reading: LabelReading | None, file: Path | None
) -> str:
    """One label; where the labels are of both kinds, each number is an index, as in older recipes."""
    text = label.text
    if not text:
        return ""
    if not by_name and text.isdecimal():
        if not _is_index(text, classes):
            raise UserError(f"{label.at}: label {text}, but {file} names {len(classes)} classes (indices start at 0)")
        return classes[int(text)]
    if reading == "indices":
        raise UserError(f"{label.at}: label {text!r} is not a number, but data.labels_are says indices")
    if text not in classes:
        raise UserError(f"{label.at}: class {text!r} is not in {file}{suggest_class(text, classes)}")
    return text


def _is_index(text: str, classes: tuple[str, ...]) -> bool:
    return text.isdecimal() and len(text) < 10 and int(text) < len(classes)
