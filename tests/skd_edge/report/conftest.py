"""The sample results as fixtures; `sample.py` is loaded by its path, because tests/ is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    return _loaded("sample.py")


@pytest.fixture(scope="session")
def page_of() -> Any:
    """`Page`: what a browser would see of a page."""
    return _loaded("html_page.py").Page


def _loaded(file: str) -> ModuleType:
    name = f"skd_edge_report_{file.removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
