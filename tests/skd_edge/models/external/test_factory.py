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
