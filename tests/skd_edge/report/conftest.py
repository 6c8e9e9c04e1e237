"""Sample reports as fixtures. `sample.py` is loaded by its path, because tests/ is not a package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module `sample.py`: functions that return the content of a `report.json`."""
    return _load_module("sample.py")


@pytest.fixture(scope="session")
def page_of() -> Any:
    """The class `Page`: an HTML document as a browser parses it."""
    return _load_module("html_page.py").Page


def _load_module(file: str) -> ModuleType:
    name = f"skd_edge_report_{file.removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
