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

from skd_edge.recipe.yaml_nodes import SourceLocation, YamlNode

Model = TypeVar("Model", bound=BaseModel)
PathPart = str | int

# Taken relative to data.root by the data room (data/sources.py), so not made absolute here.
_ROOT_RELATIVE_PATHS = {("data", name) for name in ("file", "train", "val", "test", "classes", "splits")}
_VARIABLE_PATTERN = re.compile(r"\$(\$?)\{([^{}]*)\}")
_DOTTED_PATH_PATTERN = re.compile(r"[a-z_0-9]+(?:\.[a-z_0-9]+)+")


@dataclass(frozen=True)
class RecipeProblem:
    """One mistake: where it stands, the dotted path of the setting ('' for the whole), and what to do about it."""

    location: SourceLocation
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.location}: {self.path}: {self.text}" if self.path else f"{self.location}: {self.text}"


def validate_tree(
    model: type[Model], tree: YamlNode, env: Mapping[str, str]
) -> tuple[Model | None, list[RecipeProblem]]:
    """The tree as a model, types taken strictly, paths made absolute.

    Args:
        model: what the tree should be.
        tree: a mapping node.
        env: variables that ``${NAME}`` in a path stands for.

    Returns:
        The model and no problem, or None and every problem found, in the order of their lines.
    """
    problems: list[RecipeProblem] = []
    data = _prepare_plain_data(tree, model, (), env, problems)
    try:
        # As JSON, because only there strict types still let a list be a tuple and a string be a path.
        checked = model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problem = _make_problem(model, tree, detail)
            if not any(problem.path and problem.path == known.path for known in problems):
                problems.append(problem)
    else:
        if not problems:
            return checked, []
    beneath = {p.path.rsplit(".", n)[0] for p in problems for n in range(1, p.path.count(".") + 1)}
    # A list whose only entry is wrong is reported by pydantic as too short as well: the entry says it better.
    reported = [p for p in problems if not (p.path in beneath and "it must have at least" in p.text)]
    return None, sorted(reported, key=lambda p: (p.location.source, p.location.line or 0))


# ------------------------------------------------------------------------------------------ the model's side
def _unwrap_alternatives(annotation: Any) -> list[Any]:
    """A type's alternatives, with ``Annotated`` taken off and unions opened."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _unwrap_alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for a in get_args(annotation) for m in _unwrap_alternatives(a)]
    return [annotation]


def _find_models(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in _unwrap_alternatives(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _kind_values(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _select_model(annotation: Any, node: YamlNode | None) -> type[BaseModel] | None:
    """The model that a node is checked against: the only one, or the one of its ``kind``."""
    models = _find_models(annotation)
    if len(models) == 1:
        return models[0]
    kind = node.child("kind") if node else None
    return next((m for m in models if kind and kind.value in _kind_values(m)), None)


def _entry_type(annotation: Any, part: PathPart, node: YamlNode | None) -> Any:
    """The type of one entry of a model, a list, a tuple or a dict; None where it is not known."""
    model = _select_model(annotation, node)
    if model is not None:
        field = model.model_fields.get(str(part))
        return field.annotation if field else None
    for member in _unwrap_alternatives(annotation):
        origin, args = get_origin(member), get_args(member)
        if origin is dict:
            return args[1]
        if origin is list or (origin is tuple and len(args) == 2 and args[1] is Ellipsis):
            return args[0]
        if origin is tuple and isinstance(part, int) and part < len(args):
            return args[part]
    return None


# --------------------------------------------------------------------------------------------- plain data
def _prepare_plain_data(
    node: YamlNode, annotation: Any, at: tuple[PathPart, ...], env: Mapping[str, str], problems: list[RecipeProblem]
) -> object:
    """Plain data for pydantic: paths expanded and absolute, CSV values (``dict[str, list[str]]``) as written."""
    if isinstance(node.value, dict):
        return {
            k: _prepare_plain_data(v, _entry_type(annotation, k, node), (*at, k), env, problems)
            for k, v in node.value.items()
        }
    if isinstance(node.value, list):
        texts = any(get_origin(m) is list and get_args(m) == (str,) for m in _unwrap_alternatives(annotation))
        return [
            v.raw
            if texts and v.raw and v.value is not None
            else _prepare_plain_data(v, _entry_type(annotation, i, node), (*at, i), env, problems)
            for i, v in enumerate(node.value)
        ]
    if isinstance(node.value, str) and Path in _unwrap_alternatives(annotation):
        try:
            return expand_path(node.value, None if at in _ROOT_RELATIVE_PATHS else node.location.base, env)
        except KeyError as error:
            name, path = error.args[0], format_dotted_path(at)
            text = f"{node.value!r} needs the variable {name}, which is not set; export {name}=..., or give the path"
            problems.append(RecipeProblem(node.location, path, f"{text} with --set {path}=..."))
        except ValueError as error:
            problems.append(RecipeProblem(node.location, format_dotted_path(at), str(error)))
    return node.value


def expand_path(text: str, base: Path | None, env: Mapping[str, str]) -> str:
    """A path of a recipe with ``~`` and ``${NAME}`` replaced (``$${`` stands for ``${``), and absolute.

    Args:
        text: the path as written.
        base: what a relative path starts from; None leaves it relative.
        env: the variables.

    Raises:
        KeyError: the name of a variable that is not set or empty.
        ValueError: the path is empty.
    """

    def replace_variable(match: re.Match[str]) -> str:
        if match[1]:
            return "${" + match[2] + "}"
        if not (found := env.get(match[2])):
            raise KeyError(match[2])
        return found

    path = os.path.expanduser(_VARIABLE_PATTERN.sub(replace_variable, text))
    if not path.strip():
        raise ValueError(f"{text!r} is no path; give one, relative to the recipe or absolute")
    return path if base is None else os.path.abspath(base / path)


def escape_path(path: str) -> str:
    """A path that ``expanded`` gives back unchanged."""
    return path.replace("${", "$${")


# ------------------------------------------------------------------------------------------ saying what is wrong
def format_dotted_path(parts: tuple[PathPart, ...]) -> str:
    """``students.0.width``; a part that is no plain word is shown quoted, and short."""
    return ".".join(str(p) if re.fullmatch(r"[\w-]{1,64}", str(p)) else format_short_value(str(p)) for p in parts)


def format_short_value(value: object) -> str:
    """A value on one short line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value).encode("utf-8", "backslashreplace").decode()


def _make_problem(model: type[BaseModel], tree: YamlNode, error: Any) -> RecipeProblem:
    """One pydantic error in our words, at the line of the nearest node."""
    parts: list[PathPart] = []
    node: YamlNode | None = tree
    nearest, owner = tree, model
    annotation: Any = model
    for part in error["loc"]:
        if len(_find_models(annotation)) > 1 and node is not None and part in _tag_values(annotation, node):
            annotation = _select_model(annotation, node)
            continue  # pydantic puts the kind of a tagged union into the path; nobody wrote it there
        if part == "[key]" and parts and (node is None or node.child(part) is None):
            continue  # likewise where the key of a mapping is what it refuses
        if isinstance(part, int) and node is not None and not isinstance(node.value, dict | list):
            continue  # likewise where one value stands for a list of it
        owner = _select_model(annotation, node) or owner
        annotation = _entry_type(annotation, part, node)
        node = node.child(part) if node else None
        nearest = node or nearest
        parts.append(part)
    if error["type"].startswith("union_tag"):
        return _make_tag_problem(tuple(parts), nearest, error)
    if not parts and (found := _find_mentioned_node(tree, error["msg"])):
        nearest = found
    field = owner.model_fields.get(str(parts[-1])) if parts else None
    return RecipeProblem(
        nearest.location, format_dotted_path(tuple(parts)), _format_mistake(error, owner, field, parts, model)
    )


def _tag_values(annotation: Any, node: YamlNode) -> set[Any]:
    kind = node.child("kind")
    return {kind.value} if kind and not isinstance(kind.value, dict | list) else set()


def _find_mentioned_node(tree: YamlNode, text: str) -> YamlNode | None:
    """What a message about the whole recipe speaks of: its first dotted path, quoted value or first word."""
    for path in _DOTTED_PATH_PATTERN.findall(text):
        node: YamlNode | None = tree
        for part in path.split("."):
            node = node.child(int(part) if part.isdigit() else part) if node else None
        if node is not None:
            return node
    words = [*re.findall(r"'([^']+)'", text), *text.removeprefix("Value error, ").split()[:1]]
    return next((found for word in words if (found := _find_last_scalar(tree, word))), None)


def _find_last_scalar(node: YamlNode, word: str) -> YamlNode | None:
    """The last scalar of a tree that reads like this."""
    if not isinstance(node.value, dict | list):
        return node if node.raw == word else None
    inner = list(node.value.values()) if isinstance(node.value, dict) else node.value
    return next((found for entry in reversed(inner) if (found := _find_last_scalar(entry, word))), None)


def _make_tag_problem(parts: tuple[PathPart, ...], node: YamlNode, error: Any) -> RecipeProblem:
    path = format_dotted_path((*parts, "kind"))
    context = error["ctx"]
    kind = node.child("kind")
    if error["type"] == "union_tag_not_found" or kind is None:
        return RecipeProblem(
            node.location, path, f"is missing; say which, e.g. '{path}: folder' or '{path}: generated'"
        )
    known = re.findall(r"'([^']*)'", context.get("expected_tags", ""))
    text = f"{format_short_value(kind.value)} is no kind that is known{_suggest_close_match(str(kind.value), known)}; there are: {', '.join(known)}"
    return RecipeProblem(kind.location, path, text)


def _suggest_close_match(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word[:80], known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _format_mistake(
    error: Any, owner: type[BaseModel], field: FieldInfo | None, parts: list[PathPart], whole: type[BaseModel]
) -> str:
    kind, given, message = error["type"], error["input"], _one_line(error["msg"])
    description = f" ({field.description})" if field and field.description else ""
    if kind == "extra_forbidden":
        return _format_unknown_key(str(parts[-1]), owner, whole)
    if kind == "missing":
        return f"is missing; add it{description}"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"{format_short_value(given)} is not one of {', '.join(known)}{_suggest_close_match(str(given), known)}{description}"
    if given is None:
        return f"nothing is given here; remove the line, or give a value{description}"
    if kind == "string_type":
        return f"{format_short_value(given)} is not text; put it in quotes{description}"
    if kind == "bool_type":
        return f"{format_short_value(given)} is neither true nor false; write one of them{description}"
    wanted = message.replace("Input should be", "it must be").replace(" after validation", "")
    wanted = wanted.replace("a valid array", "a list ([a, b])").replace("an object", "a section of 'key: value' lines")
    wanted = wanted.replace("Tuple should have", "it must have").replace("a valid integer", "a whole number")
    return f"{format_short_value(given)} cannot be used: {wanted}{description}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _format_unknown_key(key: str, owner: type[BaseModel], whole: type[BaseModel]) -> str:
    known = list(owner.model_fields)
    elsewhere = [path for path in iter_setting_paths(whole) if path.split(".")[-1] == key]
    hint = f" here; there is {' and '.join(elsewhere[:3])}" if elsewhere else _suggest_close_match(key, known)
    return f"no such setting{hint or '; remove it'} (known here: {', '.join(known)})"


def iter_setting_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting of a model as a dotted path, sections and the models in lists included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        members = _unwrap_alternatives(field.annotation)
        listed = [a for m in members if get_origin(m) is tuple for a in get_args(m) if a is not Ellipsis]
        for inner in {m for a in (field.annotation, *listed) for m in _find_models(a)}:
            yield from iter_setting_paths(inner, f"{prefix}{name}.{'0.' if listed else ''}")
