"""Loading recipes from YAML files, with ``extends`` and ``--set``; and writing a recipe as YAML or its JSON schema."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from skd_bench.errors import UsageError
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.validation import (
    RecipeProblem,
    escape_path,
    find_node,
    format_dotted_path,
    format_short_value,
    validate_tree,
)
from skd_edge.recipe.yaml_nodes import (
    MAX_DEPTH,
    SourceLocation,
    YamlNode,
    decode_utf8,
    parse_plain_scalar,
    parse_yaml,
    read_recipe_bytes,
)

MAX_PARENTS = 8
MAX_PROBLEMS_SHOWN = 20

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, env: Mapping[str, str] = os.environ
) -> Recipe:
    """Load and validate a recipe; its paths are made absolute.

    Args:
        path: a YAML file, or the name of a recipe in the package (``quickstart``).
        overrides: values of ``--set``, each ``a.b=value``. The value is YAML and replaces the value in the file;
            ``students.0.width=16`` changes an entry of a list. Paths in it are relative to the working directory.
        env: environment variables for ``${NAME}`` in paths.

    Raises:
        UsageError: The recipe has mistakes; the message lists all of them, each as
            ``file:line: setting: what is wrong and what to do``.
    """
    tree = _load_with_parents(_find_recipe_file(str(path), Path.cwd(), None), (), None)
    problems = [p for override in overrides if (p := _apply_override(tree, override))]
    _resolve_paths_beside_recipe(tree)
    _expand_auto_shorthand(tree)
    recipe, found = validate_tree(Recipe, tree, env)
    return _raise_on_problems(recipe, problems + found)


def locate_setting(path: str | os.PathLike[str], overrides: Sequence[str], setting: str) -> str:
    """Where a recipe that was loaded says something: ``file:line``, or the option, of a setting or what is around it.

    Args:
        path: the file, as given to `load_recipe`.
        overrides: as given to `load_recipe`.
        setting: its dotted path.

    Raises:
        UsageError: The file cannot be read any more.
    """
    tree = _load_with_parents(_find_recipe_file(str(path), Path.cwd(), None), (), None)
    for override in overrides:
        _apply_override(tree, override)
    parts = setting.split(".")
    nodes = (find_node(tree, parts[:count]) for count in range(len(parts), 0, -1))
    return str(next((node.location for node in nodes if node), tree.location))


def _expand_auto_shorthand(tree: YamlNode) -> None:
    """Replace ``students: auto`` by an empty list and ``auto: [students]``; likewise for assistants."""
    if not isinstance(tree.value, dict):
        return
    auto_nodes = {key: node for key in ("students", "assistants") if (node := tree.child(key)) and node.value == "auto"}
    for key, node in auto_nodes.items():
        tree.value[key] = YamlNode([], node.location)
    if auto_nodes:
        location = next(iter(auto_nodes.values())).location
        tree.value["auto"] = YamlNode([YamlNode(key, node.location, key) for key, node in auto_nodes.items()], location)


def make_section_from_options(model: type[Model], options: Mapping[str, object]) -> Model:
    """Make a section of a recipe from command-line options.

    Args:
        model: the section's model.
        options: values by name; None means the default.

    Raises:
        UsageError: A value is not valid; the message names every such option.
    """
    here = Path.cwd()
    tree = YamlNode({}, SourceLocation("command line", None, here))
    assert isinstance(tree.value, dict)
    for name, value in options.items():
        if isinstance(value, str | int | float):
            tree.value[name] = YamlNode(value, SourceLocation(f"--{name}", None, here), str(value))
    return _raise_on_problems(*validate_tree(model, tree, os.environ))


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML, including defaults; loading it gives an equal recipe.

    Paths with environment variables stay as they were written, so that loading it reads the variables again.
    """
    plain_data = _convert_to_plain(recipe, recipe.path_texts.text_by_path)
    text: str = yaml.dump(
        plain_data, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    return f"# As resolved: defaults, 'extends' and '--set' written out.\n{text}"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors (``# yaml-language-server: $schema=...``)."""
    schema = Recipe.model_json_schema()
    for key in ("students", "assistants"):
        listed = schema["properties"][key]
        schema["properties"][key] = {"anyOf": [listed, {"const": "auto"}]}
    parent = {"type": "string", "description": "another recipe, whose settings this one changes; relative to this file"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": {"extends": parent, **schema["properties"]},
    }


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package, sorted."""
    try:
        return sorted(p.name.removesuffix(".yaml") for p in _shipped_folder().iterdir() if p.name.endswith(".yaml"))
    except OSError:
        return []


def _shipped_folder() -> Path:
    return Path(str(files("skd_edge").joinpath("recipes")))


# --------------------------------------------------------------------------------------------- files and parents
def _find_recipe_file(name: str, base: Path, extended_from: SourceLocation | None) -> tuple[Path, str]:
    """Find a recipe's file: a path, or the name of a recipe in the package. Also returns its name for messages."""
    path = base / name
    if os.path.exists(path):
        return path, name if extended_from is None else _shorten_path(path)
    stem = name.removesuffix(".yaml")
    if stem in shipped_recipes():
        return _shipped_folder() / f"{stem}.yaml", f"{stem}.yaml"
    where = f"{extended_from}: extends: " if extended_from else ""
    known = ", ".join(shipped_recipes()) or "none"
    raise UsageError(
        f"{where}{format_short_value(name)}: no such recipe; give a YAML file, or a recipe of the package: {known}"
    )


def _shorten_path(path: Path) -> str:
    """The path for messages: relative if it is below the working directory, else absolute."""
    near = os.path.relpath(path)
    return os.path.abspath(path) if near.startswith("..") else near


def _load_with_parents(
    recipe_file: tuple[Path, str], children: tuple[Path, ...], extended_from: SourceLocation | None
) -> YamlNode:
    """Read a file's tree and merge it with the trees of the recipes that it extends.

    Args:
        recipe_file: the file and its name in messages.
        children: the recipes that extend this one, to find circles.
        extended_from: where this file is named; None for the first one.
    """
    path, name = recipe_file
    location = SourceLocation(name, 1, path.absolute().parent)
    if extended_from is not None:
        _check_looks_like_recipe(path, name, extended_from)
    tree = parse_yaml(decode_utf8(read_recipe_bytes(path, name), name), location)
    if tree is None:
        raise UsageError(f"{name}: the recipe is empty; 'skd-edge init FOLDER' writes a first one")
    if not isinstance(tree.value, dict):
        raise UsageError(
            f"{tree.location}: a recipe consists of 'key: value' lines, not {format_short_value(tree.raw or 'a list')}"
        )
    parent = tree.value.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent.value, str) or not parent.value:
        raise UsageError(f"{parent.location}: extends: give the name of one recipe file")
    ancestors = (*children, path.resolve())
    parent_file = _find_recipe_file(parent.value, location.base, parent.location)
    if parent_file[0].resolve() in ancestors:
        raise UsageError(
            f"{parent.location}: extends: {format_short_value(parent.value)} is a circle; remove one 'extends'"
        )
    if len(ancestors) > MAX_PARENTS:
        raise UsageError(f"{parent.location}: extends: a chain of more than {MAX_PARENTS} recipes; merge some of them")
    return _merge_nodes(_load_with_parents(parent_file, ancestors, parent.location), tree)


def _check_looks_like_recipe(path: Path, name: str, extended_from: SourceLocation) -> None:
    """Check that most top-level keys of a file are those of a recipe.

    A stranger's recipe may extend any file, such as one with passwords. Messages about its lines would show them, and
    such messages are often published.

    Raises:
        UsageError: They are not. The message quotes nothing of the file.
    """
    try:
        tree = parse_yaml(decode_utf8(read_recipe_bytes(path, name), name), SourceLocation(name, 1, path.parent))
        keys = list(tree.value) if tree and isinstance(tree.value, dict) else []
    except UsageError:
        keys = []
    known = {*Recipe.model_fields, "extends"}
    if 2 * sum(key in known for key in keys) <= len(keys):
        raise UsageError(
            f"{extended_from}: extends: {format_short_value(name)} is not a recipe; to see its mistakes, which are not "
            f"shown here, run: skd-edge validate {shlex.quote(name)}"
        )


def _merge_nodes(parent: YamlNode, child: YamlNode) -> YamlNode:
    """Merge mappings key by key. Any other value, or a mapping of another ``kind``, replaces the parent's value."""
    if not isinstance(parent.value, dict) or not isinstance(child.value, dict):
        return child
    kinds = [node.value for node in (parent.child("kind"), child.child("kind")) if node]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        return child
    value = dict(parent.value)
    for key, node in child.value.items():
        value[key] = _merge_nodes(value[key], node) if key in value else node
    return YamlNode(value, child.location)


def _resolve_paths_beside_recipe(tree: YamlNode) -> None:
    """Make the networks' ``code`` and ``hub`` folders relative to the recipe that names them.

    Names of models on the hub look like relative paths, so ``hub`` is a folder only if it exists or starts as a path.
    """
    teacher = tree.child("teacher")
    lists = (teacher and teacher.child("ensemble"), tree.child("assistants"), tree.child("students"))
    networks = [teacher, *(network for one in lists if one and isinstance(one.value, list) for network in one.value)]
    for network in networks:
        factory, hub = (network.child(key) if network else None for key in ("factory", "hub"))
        if network and factory and factory.value is not None and isinstance(network.value, dict):
            network.value.setdefault("code", YamlNode(".", factory.location, "."))
        if hub and isinstance(hub.value, str) and hub.value.strip():
            folder = os.path.abspath(hub.location.base / os.path.expanduser(hub.value))
            if os.path.isdir(folder) or hub.value[0] in "./~":
                hub.set_value(folder)


# --------------------------------------------------------------------------------------------- --set
def _apply_override(tree: YamlNode, text: str) -> RecipeProblem | None:
    """Apply one ``a.b=value`` to the tree; return a problem if that is not possible."""
    location = SourceLocation(f"--set {format_short_value(text)[1:-1]}", None, Path.cwd())
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return RecipeProblem(location, "", "this is not of the form key=value, e.g. --set training.epochs=3")
    if len(parts) > MAX_DEPTH:
        return RecipeProblem(
            location, "", f"no such setting: the path has {len(parts)} levels, and the limit is {MAX_DEPTH}"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        return RecipeProblem(location, "", "this is not UTF-8 text; check the terminal's encoding")
    try:
        node = parse_yaml(value, location) or YamlNode(None, location)
    except UsageError as error:
        return RecipeProblem(location, "", str(error).removeprefix(f"{location}: "))
    return _set_node(tree, parts, node, location)


def _set_node(tree: YamlNode, parts: list[str], node: YamlNode, location: SourceLocation) -> RecipeProblem | None:
    """Put a node at a path of the tree, and create missing sections; return a problem if the path does not exist."""
    here = tree
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if here.value is None:
            here.set_value({})
        if isinstance(here.value, dict):
            if last:
                here.value[part] = node
                return None
            here = here.value.setdefault(part, YamlNode({}, location))
        elif isinstance(here.value, list):
            count, index = len(here.value), int(part) if part.isdecimal() and len(part) < 6 else -1
            if not 0 <= index < count:
                allowed = f"has the entries 0 to {count - 1}" if count else "is empty"
                text = f"this list {allowed}, so there is no entry {format_short_value(part)}; change the index"
                return RecipeProblem(location, format_dotted_path(tuple(parts[:depth])), text)
            if last:
                here.value[index] = node
                return None
            here = here.value[index]
        else:
            text = (
                f"this is {format_short_value(here.value)}, which has no {format_short_value(part)}; remove that part"
            )
            return RecipeProblem(location, format_dotted_path(tuple(parts[:depth])), text)
    return None


def _raise_on_problems(model: Model | None, problems: list[RecipeProblem]) -> Model:
    """Return the model, or raise one error that lists all problems."""
    if model is not None and not problems:
        return model
    lines = [str(p) for p in problems]
    if len(lines) == 1:
        raise UsageError(lines[0])
    rest = [f"... and {len(lines) - MAX_PROBLEMS_SHOWN} more"] if len(lines) > MAX_PROBLEMS_SHOWN else []
    raise UsageError("\n  ".join([f"{len(lines)} problems:", *lines[:MAX_PROBLEMS_SHOWN], *rest]))


# --------------------------------------------------------------------------------------------- back to YAML
class _RecipeDumper(yaml.SafeDumper):
    """Quotes text that ``parse_plain_scalar`` would not read as text, and writes no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        style = None if isinstance(parse_plain_scalar(value), str) else "'"
    except ValueError:
        style = "'"
    if not value.isprintable():
        style = '"'  # only double quotes can escape characters that other styles turn into line breaks
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_RecipeDumper.add_representer(str, _represent_text)


def _convert_to_plain(value: object, text_by_path: Mapping[str, str]) -> object:
    """Convert to plain data that can be loaded again: paths as they were written or escaped, tuples become lists."""
    if isinstance(value, BaseModel):
        return {name: _convert_to_plain(getattr(value, name), text_by_path) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: _convert_to_plain(v, text_by_path) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_convert_to_plain(v, text_by_path) for v in value]
    return text_by_path.get(str(value), escape_path(str(value))) if isinstance(value, Path) else value
