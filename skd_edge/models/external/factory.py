"""Networks from the factory that ``teacher.factory`` names: external code, run only if the user allowed it.

A recipe is data, but ``teacher.factory`` names code. Nothing here imports that code before ``allow_factory_code`` was
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
from skd_edge.recipe.networks import SingleTeacher
from skd_edge.recipe.schema import Teacher

_allowed_factories: set[str] = set()


def allow_factory_code(teacher: SingleTeacher, allow_code: bool) -> None:
    """Allow the factories of this teacher and its members to run in this process; without a factory, do nothing.

    Args:
        teacher: the recipe's teacher.
        allow_code: whether the user gave ``--allow-code``.

    Raises:
        UsageError: The teacher comes from a factory, and the user did not allow its code to run.
    """
    members = teacher.members if isinstance(teacher, Teacher) else (teacher,)
    for member in members:
        if member.factory is None:
            continue
        if not allow_code:
            raise UsageError(
                f"teacher.factory {member.factory!r} runs somebody's code on this machine; read "
                f"{member.factory_module}, and if it is safe, give --allow-code (in Python: allow_code=True)"
            )
        _allowed_factories.add(member.factory)


def build_from_factory(teacher: SingleTeacher, seed: int) -> nn.Module:
    """Call the teacher's factory.

    Args:
        teacher: a teacher with ``factory``.
        seed: for the factory's random numbers (the caller's random state is not changed).

    Raises:
        UsageError: The factory was not allowed to run.
        UserError: The factory cannot be imported, fails, or returns something other than a ``torch.nn.Module``.
    """
    if teacher.factory not in _allowed_factories:
        allow_factory_code(teacher, allow_code=False)
    factory = _import_factory(teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = factory(**copy.deepcopy(teacher.arguments))
        except Exception as error:
            arguments = ", ".join(f"{k}={v!r}" for k, v in teacher.arguments.items()) or "none"
            raise UserError(
                f"teacher.factory {teacher.factory} failed with these teacher.arguments ({arguments}): "
                f"{format_error_with_location(error)}"
            ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"teacher.factory {teacher.factory} returns a {type(network).__name__}; it must return a torch.nn.Module"
        )
    return network


def factory_weights_fingerprint(teacher: SingleTeacher, seed: int) -> str | None:
    """Hash of the names and bytes of all weights of the factory's network; None if the factory may not run.

    The weights may come from a file, a package or another module, which the recipe does not show. Their hash makes sure
    that other weights are another teacher.

    Raises:
        UserError: See ``build_from_factory``.
    """
    if teacher.factory not in _allowed_factories:
        return None
    return _fingerprint_built_weights(teacher.model_dump_json(include=set(SingleTeacher.model_fields)), seed)


@functools.lru_cache(maxsize=8)
def _fingerprint_built_weights(teacher: str, seed: int) -> str:
    digest = hashlib.sha256()
    for name, tensor in build_from_factory(SingleTeacher.model_validate_json(teacher), seed).state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_factory_file(teacher: SingleTeacher) -> Path | None:
    """The file beside the recipe that contains the factory; None if it is not there. Nothing is imported."""
    if teacher.factory is None or teacher.code is None:
        return None
    stem = teacher.code.joinpath(*teacher.factory_module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def format_error_with_location(error: BaseException) -> str:
    """Format an error of external code on one line, with the file and line that raised it."""
    text = " ".join(str(error).split())[:400]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


def _import_factory(teacher: SingleTeacher) -> Callable[..., object]:
    """Import the callable that ``package.module:callable`` names; the recipe's folder is searched last."""
    assert teacher.factory is not None
    folder = str(teacher.code) if teacher.code else None
    if folder and folder not in sys.path:
        sys.path.append(folder)  # not removed again: the factory may import modules beside it when it is called
    try:
        module: Any = importlib.import_module(teacher.factory_module)
    except Exception as error:
        searched = f"Python's path and {folder}" if folder else "Python's path"
        raise UserError(
            f"teacher.factory {teacher.factory}: cannot import {teacher.factory_module}: "
            f"{format_error_with_location(error)}; modules are searched in {searched}"
        ) from error
    name = teacher.factory.partition(":")[2]
    target: Any = functools.reduce(lambda where, part: getattr(where, part, None), name.split("."), module)
    if not callable(target):
        near = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)], 3, 0.4)
        raise UserError(
            f"teacher.factory {teacher.factory}: {teacher.factory_module} has no callable {name!r}"
            + (f"; it has {', '.join(near)}" if near else "")
        )
    factory: Callable[..., object] = target
    return factory
