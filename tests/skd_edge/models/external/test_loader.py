"""External teachers as a recipe describes them: classes, clips and the hash of their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_edge.models.external.factory import allow_factory_code
from skd_edge.models.external.loader import adapt_external
from skd_edge.recipe.schema import Teacher
from skd_edge.recipe.sections import ClipSettings

HERE, CLIP = Path(__file__).parent, ClipSettings(frames=4, size=16)


def teacher(name="cubes", substages=("layers.0", "layers.1"), allow=True, **kw):
    made = Teacher(factory=f"foreign_networks:{name}", code=HERE, substages=substages, **kw)
    if allow:
        allow_factory_code(made, allow_code=True)
    return made


def adapter(name="cubes", substages=("layers.0", "layers.1"), classes=5, **kw):
    return adapt_external(teacher(name, substages, **kw), classes=classes, clip=CLIP, seed=0).eval()


def test_a_wrong_number_of_classes_is_refused():
    with pytest.raises(UserError, match=r"has 5 classes, but the dataset has 10; .*teacher.arguments"):
        adapter(classes=10)
    assert adapter(classes=10, arguments={"classes": 10}).classes == 10
