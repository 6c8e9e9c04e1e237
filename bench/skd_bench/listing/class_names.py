"""Class names in one form, so that a name is the same wherever it was written."""

from __future__ import annotations

import unicodedata


def normalise_class_name(text: str) -> str:
    """Return a class name in the form in which names are compared: Unicode NFC, without white space at its ends.

    macOS stores an accented letter in a file name as two characters (NFD), most other programs write one (NFC). Both
    look the same, so they are the same class. Case and inner spaces are not changed.
    """
    return unicodedata.normalize("NFC", text.strip())
