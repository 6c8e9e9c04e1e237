"""Paths of clips: as lists of other tools write them, and as text that every file format can hold."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def format_path_name(path: str) -> str:
    r"""Return a path as valid Unicode: bytes that are not UTF-8 are written as ``\xe9``.

    Such a name can be written to JSON, CSV and HTML, and equal names stay equal. Other names are returned unchanged.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def resolve_listed_path(root: Path, text: str) -> tuple[Path, str]:
    r"""Find the file that a list names, whichever program wrote the list.

    Where there is no file of exactly this name, ``\`` is read as ``/`` (Windows), and accented letters may be stored in
    the other Unicode form (macOS).

    Args:
        root: the folder that the list's paths are relative to.
        text: the path as listed.

    Returns:
        The path, and its name relative to the root with ``/`` as separator. Where no form exists, the path with ``/``.
    """
    exact = root / text
    if ("\\" not in text and text.isascii()) or _exists(exact):  # most lists: no file is looked for
        return exact, text
    slashed = text.replace("\\", "/")
    for form in (slashed, unicodedata.normalize("NFC", slashed), unicodedata.normalize("NFD", slashed)):
        if _exists(root / form):
            return root / form, slashed
    return root / slashed, slashed


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or contains a NUL byte
        return False
