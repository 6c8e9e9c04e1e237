"""Networks from the factory that a recipe names: external code, run only if the user allowed it.

A recipe is data, but ``factory`` names code. Nothing here imports that code before ``allow_factory_code`` was
called with the user's permission. So a caller that forgets to check the permission gets an error, not running code.
"""

from __future__ import annotations

import copy
import difflib
import functools
import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skd_bench.errors import UsageError, UserError
from skd_edge.recipe.networks import NetworkSpec
from skd_edge.recipe.schema import Recipe, Teacher

_allowed_factories: set[str] = set()


def allow_recipe_code(recipe: Recipe, allow_code: bool) -> None:
    """Allow the factories of all networks of a recipe to run in this process; without a factory, do nothing.

    Args:
        recipe: the recipe.
        allow_code: whether the user gave ``--allow-code``.

    Raises:
        UsageError: A network comes from a factory, and the user did not allow its code to run.
    """
    for network in recipe.networks.values():
        allow_factory_code(network, allow_code)


def allow_factory_code(network: NetworkSpec, allow_code: bool) -> None:
    """Allow the factories of this network and its members to run in this process; without a factory, do nothing.

    Args:
        network: a network of the recipe.
        allow_code: whether the user gave ``--allow-code``.

    Raises:
        UsageError: The network comes from a factory, and the user did not allow its code to run.
    """
    members = network.members if isinstance(network, Teacher) else (network,)
    for member in members:
        if member.factory is None:
            continue
        if not allow_code:
            raise UsageError(
                f"{member.label}.factory {member.factory!r} runs somebody's code on this machine; read "
                f"{member.factory_module}, and if it is safe, give --allow-code (in Python: allow_code=True)"
            )
        _allowed_factories.add(member.factory)


def build_from_factory(spec: NetworkSpec, seed: int) -> nn.Module:
    """Call the network's factory.

    Args:
        spec: a network with ``factory``.
        seed: for the factory's random numbers (the caller's random state is not changed).

    Raises:
        UsageError: The factory was not allowed to run.
        UserError: The factory cannot be imported, fails, or returns something other than a ``torch.nn.Module``.
    """
    if spec.factory not in _allowed_factories:
        allow_factory_code(spec, allow_code=False)
    factory = _import_factory(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = factory(**copy.deepcopy(spec.arguments))
        except Exception as error:
            arguments = ", ".join(f"{k}={v!r}" for k, v in spec.arguments.items()) or "none"
            raise UserError(
                f"{spec.label}.factory {spec.factory} failed with these {spec.label}.arguments ({arguments}): "
                f"{format_error_with_location(error)}"
            ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"{spec.label}.factory {spec.factory} returns a {type(network).__name__}; it must return a torch.nn.Module"
        )
    return network


def factory_weights_fingerprint(spec: NetworkSpec, seed: int) -> str | None:
    """Hash of the names and bytes of all weights of the factory's network; None if the factory may not run.

    The weights may come from a file, a package or another module, which the recipe does not show. Their hash makes sure
    that other weights are another teacher.

    Raises:
        UserError: See ``build_from_factory``.
    """
    if spec.factory not in _allowed_factories:
        return None
    return _fingerprint_built_weights(spec, seed)


@functools.lru_cache(maxsize=8)
def _fingerprint_built_weights(spec: NetworkSpec, seed: int) -> str:
    digest = hashlib.sha256()
    for name, tensor in build_from_factory(spec, seed).state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_factory_file(spec: NetworkSpec) -> Path | None:
    """The file beside the recipe that contains the factory; None if it is not there. Nothing is imported."""
    if spec.factory is None or spec.code is None:
        return None
    stem = spec.code.joinpath(*spec.factory_module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def format_error_with_location(error: BaseException) -> str:
    """Format an error of external code on one line, with the file and line that raised it."""
    text = " ".join(str(error).split())[:400]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


def _import_factory(spec: NetworkSpec) -> Callable[..., object]:
    """Import the callable that ``package.module:callable`` names; the recipe's folder is searched last."""
    assert spec.factory is not None
    folder = str(spec.code) if spec.code else None
    if folder and folder not in sys.path:
        sys.path.append(folder)  # not removed again: the factory may import modules beside it when it is called
    try:
        module: Any = importlib.import_module(spec.factory_module)
    except Exception as error:
        searched = f"Python's path and {folder}" if folder else "Python's path"
        raise UserError(
            f"{spec.label}.factory {spec.factory}: cannot import {spec.factory_module}: "
            f"{format_error_with_location(error)}; modules are searched in {searched}"
        ) from error
    name = spec.factory.partition(":")[2]
    target: Any = functools.reduce(lambda where, part: getattr(where, part, None), name.split("."), module)
    if not callable(target):
        near = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)], 3, 0.4)
        raise UserError(
            f"{spec.label}.factory {spec.factory}: {spec.factory_module} has no callable {name!r}"
            + (f"; it has {', '.join(near)}" if near else "")
        )
    factory: Callable[..., object] = target
    return factory
