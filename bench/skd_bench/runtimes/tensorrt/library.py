"""Finding, importing and hearing `tensorrt` or `tensorrt_rtx`: the same Python API under two names."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import re
from dataclasses import dataclass
from typing import Any

from skd_bench.errors import UserError


@dataclass(frozen=True)
class Flavour:
    """One of the two TensorRTs.

    Attributes:
        name: As recipes, manifests and the command line call it.
        title: As people call it.
        modules: What to import, the first that is installed; a tuple where one package preloads another's libraries.
        packages: Distributions whose version is the library's.
        pip: The line that installs it.
    """

    name: str
    title: str
    modules: tuple[tuple[str, ...], ...]
    packages: tuple[str, ...]
    pip: str


FLAVOURS = {
    "tensorrt": Flavour(
        "tensorrt",
        "TensorRT",
        (("tensorrt",),),
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        "pip install 'skd-edge[tensorrt]' (on a Jetson: it comes with JetPack)",
    ),
    "tensorrt-rtx": Flavour(
        "tensorrt-rtx",
        "TensorRT-RTX",
        # NVIDIA's own package, or its bindings with the libraries that lie in the ONNX Runtime plugin's wheel.
        (("tensorrt_rtx",), ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings")),
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "pip install 'skd-edge[tensorrt-rtx]'",
    ),
}


@dataclass(frozen=True)
class TensorRTLibrary:
    """An imported TensorRT.

    Attributes:
        trt: The module.
        version: Such as "1.7.1.116".
        log: What it said; given to everything that takes a logger, because TensorRT keeps the first for all.
    """

    flavour: Flavour
    trt: Any
    version: str
    log: Any

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{self.flavour.title} {self.version}"


def find_flavour(name: str) -> Flavour:
    """The TensorRT of that name.

    Raises:
        UserError: There is none.
    """
    if name not in FLAVOURS:
        raise UserError(f"there is no TensorRT called {name!r}; engines are built with {' or '.join(FLAVOURS)}")
    return FLAVOURS[name]


def find_installed_modules(which: Flavour) -> tuple[str, ...] | None:
    """The modules to import, or None where none is installed. Imports nothing."""
    for modules in which.modules:
        if all(importlib.util.find_spec(m) is not None for m in modules):
            return modules
    return None


def read_installed_version(which: Flavour) -> str | None:
    """The version from the package's metadata: nothing is imported. None when it is not installed."""
    if find_installed_modules(which) is None:
        return None
    for package in which.packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


@functools.cache
def import_library(name: str) -> TensorRTLibrary:
    """Import one, once.

    Raises:
        UserError: It is not installed, or does not load (says why).
    """
    which = find_flavour(name)
    modules = find_installed_modules(which)
    if modules is None:
        raise UserError(f"{which.title} is not installed; {which.pip}")
    try:
        with _silence_plugin_logging():
            trt = [importlib.import_module(module) for module in modules][-1]
            return TensorRTLibrary(which, trt, str(trt.__version__), _make_error_log(trt))
    except Exception as error:  # a missing or unfit shared library: ImportError, OSError, FileNotFoundError, ...
        raise UserError(
            f"{which.title} is installed and does not load: {' '.join(str(error).split())[:300]}; {which.pip}"
        ) from error


def first_error(log: Any, otherwise: str) -> str:
    """The first thing that went wrong since `log.clear()`, without TensorRT's own source lines."""
    text = next((line for line in log.errors), otherwise)
    return strip_source_location(text)


def strip_source_location(text: str) -> str:
    """One line of TensorRT without where in its own sources it was written."""
    text = re.sub(r"\s*\(?\bIn \w+ at /_src/\S+", "", " ".join(text.split()))
    text = re.sub(r"^I?\w+::\w+: ", "", text)
    text = re.sub(r"Error Code \d+: (API Usage Error |Internal Error )?", "", text).strip(" .")
    return text.removeprefix("(").removesuffix(")")[:400]


def _make_error_log(trt: Any) -> Any:
    class ErrorLog(trt.ILogger):  # type: ignore[misc]  # TensorRT is untyped
        """Keeps errors and says nothing: what is wrong becomes one `UserError`."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def clear(self) -> None:
            self.errors.clear()

    return ErrorLog()


@contextlib.contextmanager
def _silence_plugin_logging() -> Any:
    """The plugin's package warns through logging about links that only its ONNX Runtime side needs."""
    logger = logging.getLogger("onnxruntime_ep_nv_tensorrt_rtx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
