"""Parses an HTML document, for tests of its content."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

ATTRIBUTES = {"src", "href", "srcset", "action", "poster", "data", "xlink:href"}
VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Page(HTMLParser):
    """Elements, resources, event handlers, visible text and JSON of a document; asserts that its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.resources: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.json: list[Any] = []
        self._open: list[str] = []
        self._load_json = False
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.resources += [v or "" for k, v in attrs if k in ATTRIBUTES]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        self._load_json = ("type", "application/json") in attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.json += [json.loads(data)] if self._load_json else []
        elif not (self._open and self._open[-1] == "style"):
            self.text += data
