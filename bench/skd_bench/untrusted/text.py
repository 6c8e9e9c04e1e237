r"""Text from strangers on its way to a terminal or into Markdown: nothing in it can act.

A file's name may hold any character but `/` and NUL: an escape sequence that redraws the line above ("signed by ..."),
a line break that forges a line, marks that turn the order of reading around, bytes that are not UTF-8. All of these are
shown as JSON writes them (`\u001b`), which leaves JSON valid too.

`print_text` and `print_error` are the doors of every command. Line breaks between lines of text are ours and pass; so a
name goes through `escape_name` where it enters a line.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import TextIO

# Most text is plain, so only the rest is looked at, character by character.
_NOT_PLAIN = re.compile(r"[^\x20-\x7e\n]")
_NOT_PLAIN_NAME = re.compile(r"[^\x20-\x7e]")
# Controls, formats (bidirectional marks, zero-width), surrogates (bytes that are not UTF-8), line separators.
_HARMFUL_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # Persian, Hindi and emoji need them, and they move nothing
_MARKDOWN = re.compile(r"([\\`*_\[\]<|#~&]|^[>+-])")


def escape_text(text: str) -> str:
    r"""Escape what is not printable in a text of several lines; line breaks and tabs stay."""
    return _NOT_PLAIN.sub(lambda match: match[0] if match[0] == "\t" else _escape_character(match[0]), text)


def escape_name(name: object) -> str:
    """Escape what is not printable in a name, line breaks and tabs too: the result stays on its line."""
    return _NOT_PLAIN_NAME.sub(lambda match: _escape_character(match[0]), str(name))


def escape_markdown(text: str) -> str:
    """A text on one line, with the special characters of Markdown and HTML escaped, and what is not printable."""
    return _MARKDOWN.sub(r"\\\1", escape_name(" ".join(text.split())))


def escape_error(message: str) -> str:
    """Escape a message; only indented lines, as in a list of problems, may follow the first."""
    return escape_text(re.sub(r"\n(?!  )", r"\\u000a", message))


def print_text(text: str) -> None:
    """Print a text of several lines on standard output, escaped."""
    _print_escaped(escape_text(text), sys.stdout)


def print_error(message: str, hint: str = "") -> None:
    """Print a message on standard error, escaped, and then a hint whose lines are ours."""
    _print_escaped(f"{escape_error(message)}{escape_text(hint)}", sys.stderr)


def print_progress(text: str, *, last: bool) -> None:
    """Show a text in place of the line before it, on standard error; after the last one a new line begins."""
    _print_escaped(f"\r{escape_name(text)}", sys.stderr, end="\n" if last else "")


def _print_escaped(text: str, file: TextIO, *, end: str = "\n") -> None:
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=file, flush=True)


def _escape_character(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _HARMFUL_CATEGORIES:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else json.dumps(character)[1:-1]
