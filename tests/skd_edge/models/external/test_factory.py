"""Factories: external code that may not run, cannot run, or does not return a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from skd_bench.errors import UsageError, UserError
from skd_edge.models.external import factory
from skd_edge.models.external.factory import (
    allow_factory_code,
    build_from_factory,
    factory_weights_fingerprint,
    find_factory_file,
)
from skd_edge.recipe.schema import Teacher

HERE = Path(__file__).parent


def test_nothing_is_imported_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    (tmp_path / "would_run.py").write_text("raise SystemExit('it ran')")
    spec = Teacher(factory="would_run:net", code=tmp_path, substages=("a",))
    for refused in (lambda: allow_factory_code(spec, allow_code=False), lambda: build_from_factory(spec, 0)):
        with pytest.raises(UsageError, match=r"'would_run:net' runs somebody's code .*--allow-code"):
            refused()
    allow_factory_code(Teacher(), allow_code=False)  # a built-in family needs no permission
    assert find_factory_file(spec) == tmp_path / "would_run.py"
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (None, {}, r"cannot import {m}: ModuleNotFoundError.*modules are searched in Python's path and "),
        ("import nothing_like_this", {}, r"cannot import {m}: ModuleNotFoundError: .*\({m}.py, line 1\)"),
        ("def net(:", {}, r"cannot import {m}: SyntaxError"),
        ("def nets(): pass", {}, r"{m} has no callable 'net'; it has nets"),
        ("net = 3", {}, r"{m} has no callable 'net'"),
        ("def net(): pass", {"depth": 3}, r"failed with these teacher.arguments \(depth=3\): TypeError"),
        ("def net():\n    1 / 0", {}, r"teacher.arguments \(none\): ZeroDivisionError.*\({m}.py, line 2\)"),
        ("def net(): return 'text'", {}, r"returns a str; it must return a torch.nn.Module"),
    ],
)
def test_a_factory_that_returns_no_network_is_refused(source, arguments, message, tmp_path, request):
    module = f"factory_{abs(hash(request.node.name))}"
    if source is not None:
        (tmp_path / f"{module}.py").write_text(source)
    spec = Teacher(factory=f"{module}:net", code=tmp_path, substages=("a",), arguments=arguments)
    allow_factory_code(spec, allow_code=True)
    with pytest.raises(UserError, match=message.replace("{m}", module)):
        build_from_factory(spec, 0)


def allowed(name, **kw):
    spec = Teacher(factory=f"foreign_networks:{name}", code=HERE, substages=("layers.0",), **kw)
    allow_factory_code(spec, allow_code=True)
    return spec


def test_the_hash_of_the_weights_depends_on_seed_and_arguments(monkeypatch):
    spec = allowed("cubes")
    fingerprint = factory_weights_fingerprint(spec, 0)
    assert factory_weights_fingerprint(spec, 0) == fingerprint
    assert factory_weights_fingerprint(spec, 1) != fingerprint
    assert factory_weights_fingerprint(allowed("cubes", arguments={"classes": 6}), 0) != fingerprint
    monkeypatch.setattr(factory, "_allowed_factories", set())
    assert factory_weights_fingerprint(spec, 0) is None


def test_the_factory_gets_its_own_copy_of_the_arguments(tmp_path):
    (tmp_path / "changes_its_arguments.py").write_text(
        "from torch import nn\ndef net(widths):\n    widths.append(1)\n    return nn.Linear(*widths)\n"
    )
    spec = Teacher(factory="changes_its_arguments:net", code=tmp_path, substages=("a",), arguments={"widths": [2]})
    allow_factory_code(spec, allow_code=True)
    assert all(build_from_factory(spec, 0).in_features == 2 for _ in range(2))
    assert spec.arguments == {"widths": [2]}


def test_the_file_of_a_factory_is_found_beside_the_recipe_only(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__init__.py").touch()
    spec = Teacher(factory="folder:net", code=tmp_path, substages=("a",))
    assert find_factory_file(spec) == tmp_path / "folder" / "__init__.py"
    assert find_factory_file(spec.model_copy(update={"factory": "torch.nn:Linear"})) is None
    assert find_factory_file(spec.model_copy(update={"code": None})) is None
    assert find_factory_file(Teacher()) is None


def test_permission_is_needed_for_each_member_of_an_ensemble(monkeypatch):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    member = {"code": HERE, "substages": ("layers.0",), "trained": True}
    first, second = ({"factory": f"foreign_networks:{name}", **member} for name in ("cubes", "tied"))
    spec = Teacher.model_validate({"ensemble": [first, second]})
    with pytest.raises(UsageError, match="'foreign_networks:cubes' runs somebody's code"):
        allow_factory_code(spec, allow_code=False)
    allow_factory_code(spec, allow_code=True)
    assert factory._allowed_factories == {"foreign_networks:cubes", "foreign_networks:tied"}
