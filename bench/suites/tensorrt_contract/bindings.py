"""NVIDIA's real Python bindings of TensorRT over stub libraries: the API without the libraries, which need no GPU.

The wheels of the bindings are 1 MB each. The libraries that they load are replaced by stubs of nine functions, compiled
here, that return null: no builder, runtime or parser can be made, as on a machine without a driver.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

# With JetPack 6 (10.3), the first and the last of 10 and 11 on the index in November 2026, and one between.
VERSIONS = ("10.0.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106")
PACKAGE = "tensorrt-cu12-bindings"
_LIBRARIES = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}
_NO_INDEX = r"No matching distribution|Failed to establish|Connection|Could not fetch"


class UnavailableError(Exception):
    """The bindings cannot be had here; the message says why."""


def install(version: str, folder: Path) -> dict[str, str]:
    """Put the bindings of a version and its stub libraries into a folder.

    Returns:
        The environment in which Python finds them as `tensorrt`.

    Raises:
        UnavailableError: There is no C compiler, no package index, or no wheel of the version for this Python.
    """
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        raise UnavailableError("no C compiler is installed")
    package, libraries = folder / "package", folder / "libraries"
    for made in (package, libraries):
        made.mkdir(parents=True)
    with zipfile.ZipFile(_download(version, folder)) as wheel:
        wheel.extractall(package)
    # What NVIDIA's own package `tensorrt` is, beside the libraries that it brings.
    (package / "tensorrt").mkdir()
    text = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    (package / "tensorrt" / "__init__.py").write_text(text)
    for name, functions in _LIBRARIES.items():
        soname = f"lib{name}.so.{version.partition('.')[0]}"
        source = libraries / f"{name}.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
        words = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(libraries / soname), str(source)]
        subprocess.run(words, check=True, capture_output=True)
    paths = [str(package), *(p for p in sys.path if p)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LD_LIBRARY_PATH": str(libraries)}


def _download(version: str, folder: Path) -> Path:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    words += ["--disable-pip-version-check", "--dest", str(folder), f"{PACKAGE}=={version}"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        versions = re.search(r"from versions: ([^)]*)\)", done.stderr)
        if versions and versions[1] not in ("", "none"):
            raise UnavailableError(f"{PACKAGE} {version} has no wheel for this Python")
        if re.search(_NO_INDEX, done.stderr):
            raise UnavailableError("pip reaches no package index")
        raise RuntimeError(done.stderr)
    return next(folder.glob("*.whl"))
