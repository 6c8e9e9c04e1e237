"""Paths of a recipe that name environment variables: files of a run show ``${NAME}``, never the variable's value.

The value may be private (a mount point, a user's name), and the variable may have another value on another machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What may follow a path in a text: nothing, the next part of a longer path, or the punctuation of a sentence.
_END = r"(?=$|[/\s:;,'\"()\[\]{}])"


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
        """Replace these paths, and paths below the directory in a variable, by what the recipe says.

        Args:
            value: a text, or a JSON value with texts in it. Keys of objects stay as they are.
        """
        if not self.text_by_path:
            return value
        if isinstance(value, str):
            for path, text in self._replacements:
                value = re.sub(re.escape(path) + _END, text.replace("\\", "\\\\"), value)
            return value
        if isinstance(value, dict):
            return {key: self.hide_values(item) for key, item in value.items()}
        return [self.hide_values(item) for item in value] if isinstance(value, list | tuple) else value

    @property
    def _replacements(self) -> list[tuple[str, str]]:
        """What is replaced by what, longest first: a path before the directory that it is in."""
        folders = {
            value.rstrip("/"): f"${{{name}}}" for name, value in self.value_by_name.items() if value.startswith("/")
        }
        replaced = {path: text for path, text in {**folders, **self.text_by_path}.items() if len(path) > 1}
        return sorted(replaced.items(), key=lambda item: -len(item[0]))
