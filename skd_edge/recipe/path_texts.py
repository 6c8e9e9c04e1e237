"""Paths of a recipe that name environment variables: files of a run show ``${NAME}``, never the variable's value.

The value may be private (a mount point, a user's name), and the variable may have another value on another machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_END = r"(?![\w-])"  # what follows a path in a text, such as the next part of a longer path, but not a longer name


@dataclass(frozen=True)
class PathTexts:
    """The texts of a recipe's paths that name environment variables.

    Attributes:
        text_by_path: how each such path is written, by the path itself.
        value_by_name: the value of each of these variables.
    """

    text_by_path: Mapping[str, str] = field(default_factory=dict)
    value_by_name: Mapping[str, str] = field(default_factory=dict)

    def hide_values(self, value: Any) -> Any:
        """Replace these paths and the directories that they are in, as far as a variable names them.

        Args:
            value: a text, or a JSON value with texts in it, also as keys of objects.
        """
        if not self.text_by_path:
            return value
        if isinstance(value, str):
            for path, text in self._replacements:
                value = re.sub(re.escape(path) + _END, text.replace("\\", "\\\\"), value)
            return value
        if isinstance(value, dict):
            return {
                self.hide_values(key) if isinstance(key, str) else key: self.hide_values(item)
                for key, item in value.items()
            }
        return [self.hide_values(item) for item in value] if isinstance(value, list | tuple) else value

    @property
    def _replacements(self) -> list[tuple[str, str]]:
        """What is replaced by what, longest first: a path before the directory that it is in."""
        folders = {
            value.rstrip("/"): f"${{{name}}}" for name, value in self.value_by_name.items() if value.startswith("/")
        }
        for path, text in self.text_by_path.items():
            folders |= {parent: shown for parent, shown in self._iter_parents(path, text) if parent not in folders}
        replaced = {path: text for path, text in {**folders, **self.text_by_path}.items() if len(path) > 1}
        return sorted(replaced.items(), key=lambda item: -len(item[0]))

    def _iter_parents(self, path: str, text: str) -> Iterator[tuple[str, str]]:
        """The directories of a path whose texts name a variable, with these texts."""
        for slash in re.finditer("/", text):
            shown, rest = text[: slash.start()], text[slash.start() :]
            for name, value in self.value_by_name.items():
                rest = rest.replace(f"${{{name}}}", value)
            if "${" in shown and path.endswith(rest):
                yield path.removesuffix(rest), shown
