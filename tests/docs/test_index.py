"""docs/README.md lists every page once; the pictures of the README are small and made by the script that it has."""

from __future__ import annotations

import re
import runpy
import sys

import pytest


def test_every_page_is_listed_once(root):
    listed = re.findall(
        r"^\| \[[^\]]*\]\(([\w.]+\.md)\)", (root / "docs/README.md").read_text(encoding="utf-8"), flags=re.M
    )
    assert sorted(listed) == sorted(page.name for page in (root / "docs").glob("*.md") if page.name != "README.md")


def test_the_pictures_are_small(root):
    pictures = {path.name: path.stat().st_size for path in (root / "docs/pictures").iterdir()}
    assert set(pictures) == {"report.png", "tradeoff.png"}
    assert max(pictures.values()) < 300_000


def test_pictures_are_made_from_the_quickstart_only(root, tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text('{"name": "gestures"}', encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_pictures.py", str(tmp_path), "--chromium", "chromium"])
    with pytest.raises(SystemExit, match="from the quickstart only"):
        runpy.run_path(str(root / "docs/make_pictures.py"), run_name="__main__")
