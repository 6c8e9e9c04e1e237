"""Finds and imports `tensorrt` or `tensorrt_rtx`, which have the same Python API, and collects their error messages."""

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
    """TensorRT or TensorRT-RTX.

    Attributes:
        name: Its name in recipes, in manifests and on the command line.
        title: Its name in messages.
        modules: Alternatives to import; the first that is installed is used. Each is a tuple of modules to import in
            order, because one package may load the shared libraries of the next.
        packages: The distributions that have the library's version.
        pip: The command that installs it.
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
        # NVIDIA's own package, or its bindings with the shared libraries from the wheel of the ONNX Runtime plugin.
        (("tensorrt_rtx",), ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings")),
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "pip install 'skd-edge[tensorrt-rtx]'",
    ),
}


@dataclass(frozen=True)
class TensorRTLibrary:
    """An imported TensorRT library.

    Attributes:
        flavour: Which of the two libraries it is.
        trt: The imported module.
        version: Its version, such as "1.7.1.116".
        log: Its logger, which stores error messages. Every object must get this one, because TensorRT uses the first
            logger of a process for all objects.
    """

    flavour: Flavour
    trt: Any
    version: str
    log: Any

    @property
    def title(self) -> str:
        """Its name and version, for messages."""
        return f"{self.flavour.title} {self.version}"


def find_flavour(name: str) -> Flavour:
    """The flavour with this name.

    Raises:
        UserError: The name is unknown.
    """
    if name not in FLAVOURS:
        raise UserError(f"{name!r} is not a TensorRT runtime; choose from {', '.join(FLAVOURS)}")
    return FLAVOURS[name]


def find_installed_modules(which: Flavour) -> tuple[str, ...] | None:
    """The modules to import; None where the library is not installed. Imports nothing."""
    for modules in which.modules:
        if all(importlib.util.find_spec(m) is not None for m in modules):
            return modules
    return None


def read_installed_version(which: Flavour) -> str | None:
    """The version from the package's metadata; None where the library is not installed. Imports nothing."""
    if find_installed_modules(which) is None:
        return None
    for package in which.packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


@functools.cache
def import_library(name: str) -> TensorRTLibrary:
    """Import a TensorRT library; later calls return the same one.

    Args:
        name: "tensorrt" or "tensorrt-rtx".

    Raises:
        UserError: The name is unknown, or the library is not installed or cannot be imported.
    """
    which = find_flavour(name)
    modules = find_installed_modules(which)
    if modules is None:
        raise UserError(f"{which.title} is not installed; {which.pip}")
    try:
        with _silence_plugin_logging():
            trt = [importlib.import_module(module) for module in modules][-1]
            return TensorRTLibrary(which, trt, str(trt.__version__), _make_error_log(trt))
    except Exception as error:  # a shared library is missing or does not fit: ImportError, OSError, ...
        raise UserError(
            f"{which.title} is installed and does not load: {' '.join(str(error).split())[:300]}; {which.pip}"
        ) from error


def first_error(log: Any, otherwise: str) -> str:
    """The first error message since `log.clear()`, without TensorRT's source location.

    Args:
        log: The library's logger.
        otherwise: The text to return where there is no error message.
    """
    text = next((line for line in log.errors), otherwise)
    return strip_source_location(text)


def strip_source_location(text: str) -> str:
    """Remove the function, error code and source location from a message of TensorRT; make it one line."""
    text = re.sub(r"\s*\(?\bIn \w+ at /_src/\S+", "", " ".join(text.split()))
    text = re.sub(r"^I?\w+::\w+: ", "", text)
    text = re.sub(r"Error Code \d+: (API Usage Error |Internal Error )?", "", text).strip(" .")
    return text.removeprefix("(").removesuffix(")")[:400]


def _make_error_log(trt: Any) -> Any:
    class ErrorLog(trt.ILogger):  # type: ignore[misc]  # TensorRT is untyped
        """Stores error messages instead of printing them; they become the message of one `UserError`."""

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
    """Hide the plugin's warnings about links that only ONNX Runtime needs."""
    logger = logging.getLogger("onnxruntime_ep_nv_tensorrt_rtx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
