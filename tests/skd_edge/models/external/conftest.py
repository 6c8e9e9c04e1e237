"""Networks of `foreign_networks.py` as external teachers of a recipe; their code is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from skd_edge.models.external.factory import allow_factory_code
from skd_edge.models.external.loader import adapt_external
from skd_edge.recipe.schema import Teacher
from skd_edge.recipe.sections import ClipSettings


@pytest.fixture
def make_teacher():
    """Makes a teacher's section of a recipe; keyword arguments are keys of the section."""

    def make(name="cubes", substages=("layers.0", "layers.1"), **keys):
        spec = Teacher(factory=f"foreign_networks:{name}", code=Path(__file__).parent, substages=substages, **keys)
        allow_factory_code(spec, allow_code=True)
        return spec

    return make


@pytest.fixture
def make_adapter(make_teacher):
    """Makes the adapted network, in eval mode, for clips of 4 frames and 16 x 16 pixels."""

    def make(name="cubes", substages=("layers.0", "layers.1"), classes=5, **keys):
        clip = ClipSettings(frames=4, size=16)
        return adapt_external(make_teacher(name, substages, **keys), classes=classes, clip=clip, seed=0).eval()

    return make
