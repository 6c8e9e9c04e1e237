"""Validation of a tree of YAML nodes with a pydantic model; returns the model, or all mistakes with their lines."""

from __future__ import annotations

import difflib
import json
import os
import re
import reprlib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from skd_edge.recipe.path_texts import PathTexts
from skd_edge.recipe.yaml_nodes import SourceLocation, YamlNode

Model = TypeVar("Model", bound=BaseModel)
PathPart = str | int

# Paths relative to data.root. skd_edge/data/sources resolves them, so they are not made absolute here.
_ROOT_RELATIVE_PATHS = {("data", name) for name in ("file", "train", "val", "test", "classes", "splits")}
_VARIABLE_PATTERN = re.compile(r"\$(\$?)\{([^{}]*)\}")
_DOTTED_PATH_PATTERN = re.compile(r"[a-z_0-9]+(?:\.[a-z_0-9]+)+")
# Names that other tools use for a setting, by section. The closest spelling would suggest a wrong setting for some of
# them: for `lr` it is `elr`, which is valid, so that the run would be trained with a wrong setting.
_SYNONYMS = {
    "training": {
        "lr": "rate",
        "bs": "batch",
        "batch_size": "batch",
        "wd": "weight_decay",
        "n_epochs": "epochs",
        "num_epochs": "epochs",
    },
    "clip": {"num_frames": "frames", "resolution": "size", "img_size": "size", "image_size": "size"},
}


@dataclass(frozen=True)
class RecipeProblem:
    """One mistake in a recipe.

    Attributes:
        location: file and line, or the option.
        path: dotted path of the setting; '' for the whole recipe.
        text: what is wrong and what to do.
    """

    location: SourceLocation
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.location}: {self.path}: {self.text}" if self.path else f"{self.location}: {self.text}"


def validate_tree(
    model: type[Model], tree: YamlNode, env: Mapping[str, str]
) -> tuple[Model | None, list[RecipeProblem]]:
    """Validate a tree strictly (no conversion of types) and make its paths absolute.

    Args:
        model: the model of the whole tree.
        tree: a mapping node.
        env: environment variables for ``${NAME}`` in paths. A model gets the texts of these paths as the ``path_texts``
            of the validation context.

    Returns:
        The model and an empty list, or None and all problems, in the order of their lines.
    """
    problems: list[RecipeProblem] = []
    paths = _PathExpander(env)
    data = _prepare_plain_data(tree, model, (), paths, problems)
    try:
        # As JSON, because in strict mode pydantic accepts a list for a tuple and a string for a path only in JSON.
        checked = model.model_validate_json(json.dumps(data), strict=True, context={"path_texts": paths.texts})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problem = _make_problem(model, tree, detail)
            if not any(problem.path and problem.path == known.path for known in problems):
                problems.append(problem)
    else:
        if not problems:
            return checked, []
    beneath = {p.path.rsplit(".", n)[0] for p in problems for n in range(1, p.path.count(".") + 1)}
    # If the only entry of a list is wrong, pydantic also reports that the list is too short; that is left out.
    reported = [p for p in problems if not (p.path in beneath and "it must have at least" in p.text)]
    return None, sorted(reported, key=lambda p: (p.location.source, p.location.line or 0))


# ------------------------------------------------------------------------------------------ types of the model
def _unwrap_alternatives(annotation: Any) -> list[Any]:
    """The alternatives of a type: the members of a union, without ``Annotated``."""
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
    """The model for a node: the only one in the type, or the one with the node's ``kind``; None if it is not known."""
    models = _find_models(annotation)
    if len(models) == 1:
        return models[0]
    kind = node.child("kind") if node else None
    return next((m for m in models if kind and kind.value in _kind_values(m)), None)


def _entry_type(annotation: Any, part: PathPart, node: YamlNode | None) -> Any:
    """The type of one entry of a model, a list, a tuple or a dict; None if it is not known."""
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
    node: YamlNode, annotation: Any, at: tuple[PathPart, ...], paths: _PathExpander, problems: list[RecipeProblem]
) -> object:
    """Convert a node to plain data for pydantic, with absolute paths; problems with paths are added to ``problems``.

    Values of CSV columns (``dict[str, list[str]]``) stay as written, so that ``01`` is not converted to a number.
    """
    if isinstance(node.value, dict):
        return {
            k: _prepare_plain_data(v, _entry_type(annotation, k, node), (*at, k), paths, problems)
            for k, v in node.value.items()
        }
    if isinstance(node.value, list):
        texts = any(get_origin(m) is list and get_args(m) == (str,) for m in _unwrap_alternatives(annotation))
        return [
            v.raw
            if texts and v.raw and v.value is not None
            else _prepare_plain_data(v, _entry_type(annotation, i, node), (*at, i), paths, problems)
            for i, v in enumerate(node.value)
        ]
    if isinstance(node.value, str) and Path in _unwrap_alternatives(annotation):
        try:
            return paths.expand(node.value, None if at in _ROOT_RELATIVE_PATHS else node.location.base)
        except KeyError as error:
            name, path = error.args[0], format_dotted_path(at)
            text = (
                f"{node.value!r} needs the environment variable {name}, which is not set; set it with export {name}=..."
            )
            problems.append(RecipeProblem(node.location, path, f"{text}, or give the path with --set {path}=..."))
        except ValueError as error:
            problems.append(RecipeProblem(node.location, format_dotted_path(at), str(error)))
    return node.value


class _PathExpander:
    """Expands the paths of a recipe, and collects the texts of those that name environment variables."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self._text_by_path: dict[str, str] = {}
        self._value_by_name: dict[str, str] = {}

    @property
    def texts(self) -> PathTexts:
        """The texts that were collected so far."""
        return PathTexts(self._text_by_path, self._value_by_name)

    def expand(self, text: str, base: Path | None) -> str:
        """See `expand_path`."""
        path = expand_path(text, base, self.env)
        if names := [match[2] for match in _VARIABLE_PATTERN.finditer(text) if not match[1]]:
            is_relative = base is not None and not os.path.isabs(expand_path(text, None, self.env))
            self._text_by_path[path] = os.path.join(escape_path(str(base)), text) if is_relative else text
            self._value_by_name |= {name: self.env.get(name, "") for name in names}
        return path


def expand_path(text: str, base: Path | None, env: Mapping[str, str]) -> str:
    """Replace ``~`` and ``${NAME}`` in a path of a recipe (``$${`` means ``${``) and make it absolute.

    Args:
        text: the path as written.
        base: folder for a relative path; None leaves it relative.
        env: environment variables.

    Raises:
        KeyError: A variable is not set, or is empty; the argument is its name.
        ValueError: The path is empty.
    """

    def replace_variable(match: re.Match[str]) -> str:
        if match[1]:
            return "${" + match[2] + "}"
        if not (found := env.get(match[2])):
            raise KeyError(match[2])
        return found

    path = os.path.expanduser(_VARIABLE_PATTERN.sub(replace_variable, text))
    if not path.strip():
        raise ValueError(f"{text!r} is not a path; give one, relative to the recipe or absolute")
    return path if base is None else os.path.abspath(base / path)


def escape_path(path: str) -> str:
    """Escape ``${`` in a path, so that ``expand_path`` returns the path unchanged."""
    return path.replace("${", "$${")


# ------------------------------------------------------------------------------------------ messages
def format_dotted_path(parts: tuple[PathPart, ...]) -> str:
    """Format a path as ``students.0.width``; a part that is not a plain word is quoted and shortened."""
    return ".".join(str(p) if re.fullmatch(r"[\w-]{1,64}", str(p)) else format_short_value(str(p)) for p in parts)


def format_short_value(value: object) -> str:
    """Format any value on one short line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value).encode("utf-8", "backslashreplace").decode()


def _make_problem(model: type[BaseModel], tree: YamlNode, error: Any) -> RecipeProblem:
    """Convert one error of pydantic to a problem, at the line of the setting or of the nearest section around it."""
    parts: list[PathPart] = []
    node: YamlNode | None = tree
    nearest, owner = tree, model
    annotation: Any = model
    for part in error["loc"]:
        if len(_find_models(annotation)) > 1 and node is not None and part in _tag_values(annotation, node):
            annotation = _select_model(annotation, node)
            continue  # pydantic adds the kind of a tagged union to the path; it is not in the file
        if part == "[key]" and parts and (node is None or node.child(part) is None):
            continue  # pydantic adds this if the key of a mapping is invalid
        if isinstance(part, int) and node is not None and not isinstance(node.value, dict | list):
            continue  # pydantic adds an index although a single value was given for a list
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
    """Find the node that a message about the whole recipe names: by a dotted path, a quoted value or the first word."""
    paths = [path.split(".") for path in _DOTTED_PATH_PATTERN.findall(text)]
    for path in paths:
        if node := find_node(tree, path):
            return node
    words = [*re.findall(r"'([^']+)'", text), *text.removeprefix("Value error, ").split()[:1]]
    if found := next((found for word in words if (found := _find_last_scalar(tree, word))), None):
        return found
    # The setting is missing: the section that lacks it.
    return next((node for path in paths[:1] if (node := find_node(tree, path[:-1]))), None)


def find_node(tree: YamlNode, path: Sequence[str]) -> YamlNode | None:
    """The node at a path of keys and indices; None if there is none."""
    node: YamlNode | None = tree
    for part in path:
        node = node.child(int(part) if part.isdigit() else part) if node else None
    return node


def _find_last_scalar(node: YamlNode, word: str) -> YamlNode | None:
    """Find the last scalar of a tree with this text."""
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
            node.location, path, f"is missing; give it, for example '{path}: folder' or '{path}: generated'"
        )
    known = re.findall(r"'([^']*)'", context.get("expected_tags", ""))
    suggestion = _suggest_close_match(str(kind.value), known)
    text = f"unknown kind {format_short_value(kind.value)}{suggestion}; choose from {', '.join(known)}"
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
        section = str(parts[-2]) if len(parts) > 1 else ""
        return _format_unknown_key(str(parts[-1]), section, owner, whole)
    if kind == "missing":
        return f"is missing; add it{description}"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        suggestion = _suggest_close_match(str(given), known)
        return f"{format_short_value(given)} is not one of {', '.join(known)}{suggestion}{description}"
    if given is None:
        return f"no value is given; remove the line, or give a value{description}"
    if kind == "string_type":
        return f"{format_short_value(given)} is not text; put it in quotes{description}"
    if kind == "bool_type":
        return f"{format_short_value(given)} is not true or false; give one of them{description}"
    wanted = message.replace("Input should be", "it must be").replace(" after validation", "")
    wanted = wanted.replace("a valid array", "a list ([a, b])").replace("an object", "a section of 'key: value' lines")
    wanted = wanted.replace("Tuple should have", "it must have").replace("a valid integer", "a whole number")
    return f"{format_short_value(given)} cannot be used: {wanted}{description}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _format_unknown_key(key: str, section: str, owner: type[BaseModel], whole: type[BaseModel]) -> str:
    """Suggest the setting that was probably meant: a synonym, the same key in other sections, or the closest spelling.

    Args:
        key: the unknown key.
        section: the key that holds it; '' at the top level.
        owner: the model of the section.
        whole: the model of the whole recipe.
    """
    known = list(owner.model_fields)
    synonym = _SYNONYMS.get(section, {}).get(key)
    elsewhere = [path for path in iter_setting_paths(whole) if path.split(".")[-1] == key]
    if synonym in known:
        hint = f"; did you mean {synonym!r}?"
    elif elsewhere:
        hint = f" here; it exists as {' and '.join(elsewhere[:3])}"
    else:
        hint = _suggest_close_match(key, known) or "; remove it"
    return f"no such setting{hint} (known here: {', '.join(known)})"


def iter_setting_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All settings of a model as dotted paths, including sections and the models in lists (as index 0)."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        members = _unwrap_alternatives(field.annotation)
        listed = [a for m in members if get_origin(m) is tuple for a in get_args(m) if a is not Ellipsis]
        for inner in {m for a in (field.annotation, *listed) for m in _find_models(a)}:
            yield from iter_setting_paths(inner, f"{prefix}{name}.{'0.' if listed else ''}")
