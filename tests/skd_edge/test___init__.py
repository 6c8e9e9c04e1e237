"""The Python API: every name that it offers is there, comes late, and says what it does."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import skd_edge
from skd_edge.version import VERSION

OFFERED = sorted(set(skd_edge.__all__) - {"__version__"})


@pytest.mark.parametrize("name", OFFERED)
def test_a_name_is_offered_documented_and_listed(name):
    thing = getattr(skd_edge, name)
    assert thing.__name__ == name
    assert len(inspect.getdoc(thing) or "") > 40
    assert name in dir(skd_edge)
    assert f"`{name}`" in skd_edge.__doc__


def test_the_version_is_there_and_another_name_is_not():
    assert skd_edge.__version__ == VERSION
    with pytest.raises(AttributeError, match="module 'skd_edge' has no attribute 'compres'"):
        _ = skd_edge.compres


@pytest.mark.parametrize("name", ["load_recipe", "Bundle", "UserError"])
def test_what_needs_no_torch_brings_none(name):
    code = (
        f"import sys; from skd_edge import {name}; print([m for m in ('torch', 'onnx', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
