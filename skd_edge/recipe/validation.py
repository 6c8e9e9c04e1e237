"""A tree of nodes against a pydantic model: the model, or every mistake with its place, its reason and the way out."""

from __future__ import annotations

import difflib
import json
import os
import re
import reprlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from skd_edge.recipe.yaml_nodes import Node, Place

Model = TypeVar("Model", bound=BaseModel)
Part = str | int

# Taken relative to data.root by the data room (data/sources.py), so not made absolute here.
_UNDER_ROOT = {("data", name) for name in ("file", "train", "val", "test", "classes", "splits")}
_VARIABLE = re.compile(r"\$(\$?)\{([^{}]*)\}")
_DOTTED = re.compile(r"[a-z_0-9]+(?:\.[a-z_0-9]+)+")


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, the dotted path of the setting ('' for the whole), and what to do about it."""

    place: Place
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.text}" if self.path else f"{self.place}: {self.text}"


def check(model: type[Model], tree: Node, env: Mapping[str, str]) -> tuple[Model | None, list[Problem]]:
    """The tree as a model, types taken strictly, paths made absolute.

    Args:
        model: what the tree should be.
        tree: a mapping node.
        env: variables that ``${NAME}`` in a path stands for.

    Returns:
        The model and no problem, or None and every problem found, in the order of their lines.
    """
    problems: list[Problem] = []
    data = _prepared(tree, model, (), env, problems)
    try:
        # As JSON, because only there strict types still let a list be a tuple and a string be a path.
        checked = model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problem = _problem(model, tree, detail)
            if not any(problem.path and problem.path == known.path for known in problems):
                problems.append(problem)
    else:
        if not problems:
            return checked, []
    beneath = {p.path.rsplit(".", n)[0] for p in problems for n in range(1, p.path.count(".") + 1)}
    # A list whose only entry is wrong is reported by pydantic as too short as well: the entry says it better.
    told = [p for p in problems if not (p.path in beneath and "it must have at least" in p.text)]
    return None, sorted(told, key=lambda p: (p.place.source, p.place.line or 0))


# ------------------------------------------------------------------------------------------ the model's side
def _members(annotation: Any) -> list[Any]:
    """A type's alternatives, with ``Annotated`` taken off and unions opened."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for a in get_args(annotation) for m in _members(a)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _model(annotation: Any, node: Node | None) -> type[BaseModel] | None:
    """The model that a node is checked against: the only one, or the one of its ``kind``."""
    models = _models(annotation)
    if len(models) == 1:
        return models[0]
    kind = node.child("kind") if node else None
    return next((m for m in models if kind and kind.value in _kinds(m)), None)


def _inner(annotation: Any, part: Part, node: Node | None) -> Any:
    """The type of one entry of a model, a list, a tuple or a dict; None where it is not known."""
    model = _model(annotation, node)
    if model is not None:
        field = model.model_fields.get(str(part))
        return field.annotation if field else None
    for member in _members(annotation):
        origin, args = get_origin(member), get_args(member)
        if origin is dict:
            return args[1]
        if origin is list or (origin is tuple and len(args) == 2 and args[1] is Ellipsis):
            return args[0]
        if origin is tuple and isinstance(part, int) and part < len(args):
            return args[part]
    return None


# --------------------------------------------------------------------------------------------- plain data
def _prepared(
    node: Node, annotation: Any, at: tuple[Part, ...], env: Mapping[str, str], problems: list[Problem]
) -> object:
    """Plain data for pydantic: paths expanded and absolute, CSV values (``dict[str, list[str]]``) as written."""
    if isinstance(node.value, dict):
        return {k: _prepared(v, _inner(annotation, k, node), (*at, k), env, problems) for k, v in node.value.items()}
    if isinstance(node.value, list):
        texts = any(get_origin(m) is list and get_args(m) == (str,) for m in _members(annotation))
        return [
            v.raw if texts and v.raw and v.value is not None
            else _prepared(v, _inner(annotation, i, node), (*at, i), env, problems)
            for i, v in enumerate(node.value)
        ]  # fmt: skip
    if isinstance(node.value, str) and Path in _members(annotation):
        try:
            return expanded(node.value, None if at in _UNDER_ROOT else node.place.base, env)
        except KeyError as error:
            name, path = error.args[0], dotted(at)
            text = f"{node.value!r} needs the variable {name}, which is not set; export {name}=..., or give the path"
            problems.append(Problem(node.place, path, f"{text} with --set {path}=..."))
        except ValueError as error:
            problems.append(Problem(node.place, dotted(at), str(error)))
    return node.value


def expanded(text: str, base: Path | None, env: Mapping[str, str]) -> str:
    """A path of a recipe with ``~`` and ``${NAME}`` replaced (``$${`` stands for ``${``), and absolute.

    Args:
        text: the path as written.
        base: what a relative path starts from; None leaves it relative.
        env: the variables.

    Raises:
        KeyError: the name of a variable that is not set or empty.
        ValueError: the path is empty.
    """

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "${" + match[2] + "}"
        if not (found := env.get(match[2])):
            raise KeyError(match[2])
        return found

    path = os.path.expanduser(_VARIABLE.sub(value, text))
    if not path.strip():
        raise ValueError(f"{text!r} is no path; give one, relative to the recipe or absolute")
    return path if base is None else os.path.abspath(base / path)


def escaped(path: str) -> str:
    """A path that ``expanded`` gives back unchanged."""
    return path.replace("${", "$${")


# ------------------------------------------------------------------------------------------ saying what is wrong
def dotted(parts: tuple[Part, ...]) -> str:
    """``students.0.width``; a part that is no plain word is shown quoted, and short."""
    return ".".join(str(p) if re.fullmatch(r"[\w-]{1,64}", str(p)) else shown(str(p)) for p in parts)


def shown(value: object) -> str:
    """A value on one short line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value).encode("utf-8", "backslashreplace").decode()


def _problem(model: type[BaseModel], tree: Node, error: Any) -> Problem:
    """One pydantic error in our words, at the line of the nearest node."""
    parts: list[Part] = []
    node: Node | None = tree
    nearest, owner = tree, model
    annotation: Any = model
    for part in error["loc"]:
        if len(_models(annotation)) > 1 and node is not None and part in _tags(annotation, node):
            annotation = _model(annotation, node)
            continue  # pydantic puts the kind of a tagged union into the path; nobody wrote it there
        if part == "[key]" and parts and (node is None or node.child(part) is None):
            continue  # likewise where the key of a mapping is what it refuses
        if isinstance(part, int) and node is not None and not isinstance(node.value, dict | list):
            continue  # likewise where one value stands for a list of it
        owner = _model(annotation, node) or owner
        annotation = _inner(annotation, part, node)
        node = node.child(part) if node else None
        nearest = node or nearest
        parts.append(part)
    if error["type"].startswith("union_tag"):
        return _tag_problem(tuple(parts), nearest, error)
    if not parts and (found := _mentioned(tree, error["msg"])):
        nearest = found
    field = owner.model_fields.get(str(parts[-1])) if parts else None
    return Problem(nearest.place, dotted(tuple(parts)), _say(error, owner, field, parts, model))


def _tags(annotation: Any, node: Node) -> set[Any]:
    kind = node.child("kind")
    return {kind.value} if kind and not isinstance(kind.value, dict | list) else set()


def _mentioned(tree: Node, text: str) -> Node | None:
    """What a message about the whole recipe speaks of: its first dotted path, quoted value or first word."""
    for path in _DOTTED.findall(text):
        node: Node | None = tree
        for part in path.split("."):
            node = node.child(int(part) if part.isdigit() else part) if node else None
        if node is not None:
            return node
    words = [*re.findall(r"'([^']+)'", text), *text.removeprefix("Value error, ").split()[:1]]
    return next((found for word in words if (found := _last(tree, word))), None)


def _last(node: Node, word: str) -> Node | None:
    """The last scalar of a tree that reads like this."""
    if not isinstance(node.value, dict | list):
        return node if node.raw == word else None
    inner = list(node.value.values()) if isinstance(node.value, dict) else node.value
    return next((found for entry in reversed(inner) if (found := _last(entry, word))), None)


def _tag_problem(parts: tuple[Part, ...], node: Node, error: Any) -> Problem:
    path = dotted((*parts, "kind"))
    context = error["ctx"]
    kind = node.child("kind")
    if error["type"] == "union_tag_not_found" or kind is None:
        return Problem(node.place, path, f"is missing; say which, e.g. '{path}: folder' or '{path}: generated'")
    known = re.findall(r"'([^']*)'", context.get("expected_tags", ""))
    text = (
        f"{shown(kind.value)} is no kind that is known{_meant(str(kind.value), known)}; there are: {', '.join(known)}"
    )
    return Problem(kind.place, path, text)


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word[:80], known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _say(error: Any, owner: type[BaseModel], field: FieldInfo | None, parts: list[Part], whole: type[BaseModel]) -> str:
    kind, given, message = error["type"], error["input"], _one_line(error["msg"])
    about = f" ({field.description})" if field and field.description else ""
    if kind == "extra_forbidden":
        return _unknown(str(parts[-1]), owner, whole)
    if kind == "missing":
        return f"is missing; add it{about}"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"{shown(given)} is not one of {', '.join(known)}{_meant(str(given), known)}{about}"
    if given is None:
        return f"nothing is given here; remove the line, or give a value{about}"
    if kind == "string_type":
        return f"{shown(given)} is not text; put it in quotes{about}"
    if kind == "bool_type":
        return f"{shown(given)} is neither true nor false; write one of them{about}"
    wanted = message.replace("Input should be", "it must be").replace(" after validation", "")
    wanted = wanted.replace("a valid array", "a list ([a, b])").replace("an object", "a section of 'key: value' lines")
    wanted = wanted.replace("Tuple should have", "it must have").replace("a valid integer", "a whole number")
    return f"{shown(given)} cannot be used: {wanted}{about}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _unknown(key: str, owner: type[BaseModel], whole: type[BaseModel]) -> str:
    known = list(owner.model_fields)
    elsewhere = [path for path in all_keys(whole) if path.split(".")[-1] == key]
    hint = f" here; there is {' and '.join(elsewhere[:3])}" if elsewhere else _meant(key, known)
    return f"no such setting{hint or '; remove it'} (known here: {', '.join(known)})"


def all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting of a model as a dotted path, sections and the models in lists included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        members = _members(field.annotation)
        listed = [a for m in members if get_origin(m) is tuple for a in get_args(m) if a is not Ellipsis]
        for inner in {m for a in (field.annotation, *listed) for m in _models(a)}:
            yield from all_keys(inner, f"{prefix}{name}.{'0.' if listed else ''}")
