"""Every recipe snippet of docs/labels.md is one that a recipe may hold, and its table is what the results say."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
import yaml

from skd_edge.recipe.data import FolderData
from skd_edge.recipe.labels import LabelSettings
from skd_edge.recipe.sections import SelectionRule

SECTIONS = {"labels": LabelSettings, "choice": SelectionRule, "data": FolderData}


def test_snippets_are_valid(root):
    blocks = re.findall(r"```yaml\n(.*?)```", (root / "docs/labels.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        for name, section in yaml.safe_load(block).items():
            SECTIONS[name].model_validate(section)


def test_the_table_is_made_of_the_results(root, monkeypatch):
    if not (root / "bench/results/audit.json").exists():
        pytest.fail("bench/results/audit.json is missing: python -m bench.suites.labels.audit_recall")
    spec = importlib.util.spec_from_file_location("audit_suite", root / "bench/suites/labels/audit_recall.py")
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    cells = json.loads((root / "bench/results/audit.json").read_text())["cells"]
    assert suite.table(cells) in (root / "docs/labels.md").read_text(encoding="utf-8")
