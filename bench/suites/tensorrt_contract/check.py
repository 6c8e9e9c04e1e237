"""Checks real bindings against our use of them: `python -m bench.suites.tensorrt_contract.check RUNTIME [FOLDER]`.

RUNTIME is `tensorrt` (where `bindings.install` says) or `tensorrt-rtx`. With FOLDER, an empty one, it also makes a
builder and a runtime, which stub libraries cannot. Prints a JSON object.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import skd_bench.runtimes.tensorrt.builder as our_builder
from bench.suites.tensorrt_contract.api_use import Use, find_uses
from skd_bench.errors import UserError
from skd_bench.runtimes.cuda import Gpu
from skd_bench.runtimes.tensorrt.engine_file import SCHEMA, STATE_BUILT, EngineMetadata
from skd_bench.runtimes.tensorrt.library import import_library
from skd_bench.runtimes.tensorrt.session import SessionOptions, TensorRTSession

SOURCE = Path(our_builder.__file__).parent


def find_problem(module: Any, use: Use) -> str | None:
    """Why a use does not fit a module; None where it does."""
    found = module
    for part in use.name.split("."):
        if not hasattr(found, part):
            return "missing"
        found = getattr(found, part)
    if use.arguments is None:
        return None
    counts = [_read_arity(line) for line in (found.__doc__ or "").splitlines() if re.search(r"\w+\(self: ", line)]
    if counts and not any(_accepts(least, names, use) for least, names in counts):
        return f"called with {use.arguments} arguments and {use.keywords}, takes {counts}"
    return None


def _read_arity(signature: str) -> tuple[int, list[str]]:
    """How many arguments have no default, and the names of all: from pybind's signature ``f(self: X, a: int = 3)``."""
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    depth, parts = 0, [""]
    for letter in inside:
        depth += {"[": 1, "(": 1, "<": 1, "]": -1, ")": -1, ">": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    parts = parts[1:]  # without self
    return sum("=" not in part for part in parts), [part.partition(":")[0].strip() for part in parts]


def _accepts(least: int, names: list[str], use: Use) -> bool:
    given = (use.arguments or 0) + len(use.keywords)
    unnamed = any(re.fullmatch(r"arg\d+", name) for name in names)
    return least <= given <= len(names) and (unnamed or set(use.keywords) <= set(names))


def collect_errors(folder: Path) -> dict[str, str]:
    """What a user is told where neither a builder nor a runtime can be made."""
    lib = import_library("tensorrt")
    errors = {}
    onnx, engine = folder / "x.onnx", folder / "x.engine"
    for file in (onnx, engine):
        file.write_bytes(b"x")
    metadata = EngineMetadata(
        schema=SCHEMA,
        state=STATE_BUILT,
        runtime="tensorrt",
        version=lib.version,
        sms=[86],
        sha256="0" * 64,
        bytes=1,
        source=onnx.name,
        source_sha256="0" * 64,
        input="clip",
        shape=[3, 4, 8, 8],
        dtype="float32",
        output="logits",
        classes=2,
        batches=[1, 1, 1],
        layers=1,
        flags=[],
        workspace_bytes=1 << 30,
        version_compatible=False,
        build_seconds=0.1,
        gpu=None,
    )
    gpu = Gpu("a GPU", 86, 12040)
    attempts = {
        "builder": lambda: our_builder._make_builder(lib),
        "runtime": lambda: TensorRTSession(lib, engine, metadata, gpu, SessionOptions(), threads=1),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            errors[name] = str(error)
    return errors


def main() -> None:
    """Check one module."""
    name, *folder = sys.argv[1:]
    module = import_library(name).trt
    uses = find_uses(SOURCE)
    problems = [asdict(use) | {"problem": why} for use in uses if (why := find_problem(module, use))]
    result: dict[str, Any] = {"version": module.__version__, "uses": len(uses), "problems": problems}
    result["types"] = sorted(module.DataType.__members__)
    if folder:
        result["errors"] = collect_errors(Path(folder[0]))
        result["strongly_typed_flag"] = our_builder._strongly_typed_flag(module)
        result["is_strongly_typed"] = hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        monitor = our_builder._make_progress_monitor(module, None)
        result["monitor"] = [monitor.step_complete("a", 0), monitor.done]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
