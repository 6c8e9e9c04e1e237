"""A recipe from its file: ``extends``, ``--set``, mistakes with their lines; and back to YAML, and to a JSON schema."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from skd_bench.errors import UsageError
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.validation import Problem, check, dotted, escaped, shown
from skd_edge.recipe.yaml_nodes import MAX_DEPTH, Node, Place, decode, parse, plain, read_bytes

MAX_PARENTS = 8
MAX_SHOWN = 20

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, env: Mapping[str, str] = os.environ
) -> Recipe:
    """The recipe of a YAML file, checked; its paths absolute.

    Args:
        path: a file, or the bare name of a recipe that comes with the package (``quickstart``).
        overrides: ``a.b=value`` each, as ``--set`` gives them: the value is YAML and replaces what stands there;
            ``students.0.width=16`` reaches into a list. Paths in them are relative to the working directory.
        env: variables that ``${NAME}`` in a path stands for.

    Raises:
        UsageError: with every mistake that was found, each as ``file:line: setting: what is wrong and what to do``.
    """
    tree = _with_parents(_find(str(path), Path.cwd(), None), ())
    problems = [p for override in overrides if (p := _override(tree, override))]
    _beside(tree)
    _spell_out(tree)
    recipe, found = check(Recipe, tree, env)
    return _or_refuse(recipe, problems + found)


def _spell_out(tree: Node) -> None:
    """``students: auto`` is short for an empty list and ``auto: [students]``."""
    if not isinstance(tree.value, dict):
        return
    asked = {key: node for key in ("students", "assistants") if (node := tree.child(key)) and node.value == "auto"}
    for key, node in asked.items():
        tree.value[key] = Node([], node.place)
    if asked:
        place = next(iter(asked.values())).place
        tree.value["auto"] = Node([Node(key, node.place, key) for key, node in asked.items()], place)


def from_options(model: type[Model], options: Mapping[str, object]) -> Model:
    """A section of a recipe from command-line options; an option that is None keeps its default.

    Raises:
        UsageError: naming each option whose value cannot be.
    """
    here = Path.cwd()
    tree = Node({}, Place("command line", None, here))
    assert isinstance(tree.value, dict)
    for name, value in options.items():
        if isinstance(value, str | int | float):
            tree.value[name] = Node(value, Place(f"--{name}", None, here), str(value))
    return _or_refuse(*check(model, tree, os.environ))


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults written out; loading it gives an equal recipe."""
    plain_data = _dumpable(recipe)
    text: str = yaml.dump(
        plain_data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    return f"# As resolved: defaults, 'extends' and '--set' written out.\n{text}"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors (``# yaml-language-server: $schema=...``)."""
    schema = Recipe.model_json_schema()
    for key in ("students", "assistants"):
        listed = schema["properties"][key]
        schema["properties"][key] = {"anyOf": [listed, {"const": "auto"}]}
    parent = {"type": "string", "description": "another recipe that this one changes, relative to this file"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": {"extends": parent, **schema["properties"]},
    }


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    try:
        return sorted(p.name.removesuffix(".yaml") for p in _shipped().iterdir() if p.name.endswith(".yaml"))
    except OSError:
        return []


def _shipped() -> Path:
    return Path(str(files("skd_edge").joinpath("recipes")))


# --------------------------------------------------------------------------------------------- files and parents
def _find(name: str, base: Path, asker: Place | None) -> tuple[Path, str]:
    """A recipe's file and how to call it in messages: as named, or shipped under that name."""
    path = base / name
    if os.path.exists(path):
        return path, name if asker is None else _short(path)
    stem = name.removesuffix(".yaml")
    if stem in shipped_recipes():
        return _shipped() / f"{stem}.yaml", f"{stem}.yaml"
    where = f"{asker}: extends: " if asker else ""
    known = ", ".join(shipped_recipes()) or "none"
    raise UsageError(f"{where}{shown(name)}: there is no such recipe; give a YAML file, or one that ships: {known}")


def _short(path: Path) -> str:
    """A path as one would type it here: relative where it lies beneath the working directory."""
    near = os.path.relpath(path)
    return os.path.abspath(path) if near.startswith("..") else near


def _with_parents(found: tuple[Path, str], children: tuple[Path, ...]) -> Node:
    """The tree of a file laid over the tree of the file it extends, and so on."""
    path, name = found
    place = Place(name, 1, path.absolute().parent)
    tree = parse(decode(read_bytes(path, name), name), place)
    if tree is None:
        raise UsageError(f"{name}: the recipe is empty; 'skd-edge init FOLDER' writes one to start from")
    if not isinstance(tree.value, dict):
        raise UsageError(f"{tree.place}: a recipe is lines of 'key: value', not {shown(tree.raw or 'a list')}")
    parent = tree.value.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent.value, str) or not parent.value:
        raise UsageError(f"{parent.place}: extends: give the name of one recipe file")
    real = (*children, path.resolve())
    above = _find(parent.value, place.base, parent.place)
    if above[0].resolve() in real:
        raise UsageError(f"{parent.place}: extends: {shown(parent.value)} goes in a circle; remove one 'extends'")
    if len(real) > MAX_PARENTS:
        raise UsageError(f"{parent.place}: extends: more than {MAX_PARENTS} recipes in a row; join some of them")
    return _merged(_with_parents(above, real), tree)


def _merged(parent: Node, child: Node) -> Node:
    """Mappings key by key, anything else replaced; a mapping of another ``kind`` replaces the whole."""
    if not isinstance(parent.value, dict) or not isinstance(child.value, dict):
        return child
    kinds = [node.value for node in (parent.child("kind"), child.child("kind")) if node]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        return child
    value = dict(parent.value)
    for key, node in child.value.items():
        value[key] = _merged(value[key], node) if key in value else node
    return Node(value, child.place)


def _beside(tree: Node) -> None:
    """A teacher's factory, or a model's folder, is searched beside the recipe that names it."""
    teacher = tree.child("teacher")
    together = teacher.child("ensemble") if teacher else None
    for member in (teacher, *(together.value if together and isinstance(together.value, list) else ())):
        factory, hub = (member.child(key) if member else None for key in ("factory", "hub"))
        if member and factory and factory.value is not None and isinstance(member.value, dict):
            member.value.setdefault("code", Node(".", factory.place, "."))
        if hub and isinstance(hub.value, str) and hub.value.strip():
            folder = os.path.abspath(hub.place.base / os.path.expanduser(hub.value))
            if os.path.isdir(folder) or hub.value[0] in "./~":
                hub.value = folder


# --------------------------------------------------------------------------------------------- --set
def _override(tree: Node, text: str) -> Problem | None:
    """Put one ``a.b=value`` into the tree, or say why it cannot be."""
    place = Place(f"--set {shown(text)[1:-1]}", None, Path.cwd())
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return Problem(place, "", "this is not of the form key=value, e.g. --set training.epochs=3")
    if len(parts) > MAX_DEPTH:
        return Problem(place, "", f"{len(parts)} levels deep; no such setting")
    try:
        text.encode()
    except UnicodeEncodeError:
        return Problem(place, "", "this is not UTF-8 text; check the terminal's encoding")
    try:
        node = parse(value, place) or Node(None, place)
    except UsageError as error:
        return Problem(place, "", str(error).removeprefix(f"{place}: "))
    return _put(tree, parts, node, place)


def _put(tree: Node, parts: list[str], node: Node, place: Place) -> Problem | None:
    here = tree
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if here.value is None:
            here.value = {}
        if isinstance(here.value, dict):
            if last:
                here.value[part] = node
                return None
            here = here.value.setdefault(part, Node({}, place))
        elif isinstance(here.value, list):
            count, index = len(here.value), int(part) if part.isdecimal() and len(part) < 6 else -1
            if not 0 <= index < count:
                at = dotted(tuple(parts[:depth]))
                return Problem(
                    place, at, f"it is a list of {count}; name an entry, 0 to {count - 1}, not {shown(part)}"
                )
            if last:
                here.value[index] = node
                return None
            here = here.value[index]
        else:
            return Problem(
                place, dotted(tuple(parts[:depth])), f"it is {shown(here.value)}, which has no {shown(part)}"
            )
    return None


def _or_refuse(model: Model | None, problems: list[Problem]) -> Model:
    """The model, or one error that tells all."""
    if model is not None and not problems:
        return model
    lines = [str(p) for p in problems]
    if len(lines) == 1:
        raise UsageError(lines[0])
    rest = [f"... and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    raise UsageError("\n  ".join([f"{len(lines)} problems:", *lines[:MAX_SHOWN], *rest]))


# --------------------------------------------------------------------------------------------- back to YAML
class _Dumper(yaml.SafeDumper):
    """Quotes text that our dialect (``recipe_yaml.plain``) would read as something else; writes no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        style = None if isinstance(plain(value), str) else "'"
    except ValueError:
        style = "'"
    if not value.isprintable():
        style = '"'  # escapes what other styles would fold into line breaks
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_Dumper.add_representer(str, _text)


def _dumpable(value: object) -> object:
    """Plain data that reads back as the same: paths escaped, tuples as lists."""
    if isinstance(value, BaseModel):
        return {name: _dumpable(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: _dumpable(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_dumpable(v) for v in value]
    return escaped(str(value)) if isinstance(value, Path) else value
