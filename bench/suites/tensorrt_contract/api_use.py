"""Finds what our modules use of TensorRT's Python API: names of its module, and members of its objects with arguments.

The source is read, not run. A variable's class is known by its name (`OWNERS`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The class of each variable, by file.
OWNERS = {
    "builder.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "cache": "ITimingCache",
        "clip": "ITensor",
        "logits": "ITensor",
    },
    "parser.py": {
        "parser": "OnnxParser",
        "network": "INetworkDefinition",
        "problem": "ParserError",
        "layer": "ILayer",
        "clip": "ITensor",
        "logits": "ITensor",
    },
    "session.py": {
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "_context": "IExecutionContext",
        "config": "IRuntimeConfig",
        "_cache": "IRuntimeCache",
    },
    "layers.py": {"engine": "ICudaEngine", "inspector": "EngineInspector"},
    "library.py": {},
}


@dataclass(frozen=True)
class Use:
    """One use of the API.

    Attributes:
        name: Dotted name below the module, such as "BuilderFlag.TF32" or "IBuilderConfig.set_flag".
        where: File and line.
        arguments: Number of positional arguments of a call; None where it is not a call, or the number is not known.
        keywords: Names of its keyword arguments.
    """

    name: str
    where: str
    arguments: int | None = None
    keywords: tuple[str, ...] = ()


def find_uses(folder: Path) -> list[Use]:
    """Every use in the files of `OWNERS`, in order."""
    return [
        use
        for file, owners in OWNERS.items()
        for use in _find_in_file(ast.parse((folder / file).read_text("utf-8")), file, owners)
    ]


def _find_in_file(tree: ast.Module, file: str, owners: dict[str, str]) -> Iterator[Use]:
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            for target, value in zip(targets, values, strict=False):
                if isinstance(target, ast.Name) and (name := _name_of(value, {}, {})):
                    aliases[target.id] = name
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := _name_of(node, owners, aliases)):
            call = calls.get(id(node))
            where = f"{file}:{node.lineno}"
            if call is None or any(isinstance(a, ast.Starred) for a in call.args) or "Graph" in name:
                yield Use(name, where)
            else:
                yield Use(name, where, len(call.args), tuple(k.arg for k in call.keywords if k.arg))


def _name_of(node: ast.AST, owners: dict[str, str], aliases: dict[str, str]) -> str | None:
    """The dotted name below the module that an expression means; None where it is none."""
    if not isinstance(node, ast.Attribute):
        return None
    base = node.value
    variable = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
    if variable == "trt":
        return node.attr
    if isinstance(base, ast.Name) and variable in aliases:
        return f"{aliases[variable]}.{node.attr}"
    if variable in owners:
        return f"{owners[variable]}.{node.attr}"
    inner = _name_of(base, owners, aliases)
    return f"{inner}.{node.attr}" if inner and inner[0].isupper() and "." not in inner else None
