"""Checks a bundle's files against its manifest: hashes, sizes and file types. Nothing is loaded or run."""

from __future__ import annotations

import pickletools
import stat
from pathlib import Path

from skd_bench.bundle.manifest import MANIFEST_FILE, MEASURED_FILE, Manifest, list_payload_files, resolve_bundle_path
from skd_bench.bundle.onnx_file import find_onnx_problem
from skd_bench.files import open_regular_file, sha256_file

SIGNATURE_FILE = f"{MANIFEST_FILE}.sig"
_UNLISTED_FILES = frozenset({MANIFEST_FILE, MEASURED_FILE, "MEASURED.md", SIGNATURE_FILE})

# Programs, scripts, libraries, and formats that can run code when they are loaded (pickle, PyTorch, NumPy objects).
# Not .bin: OpenVINO's weights are named so. A program of that name is found by its first bytes.
_SUFFIXES = (
    ".app .bat .class .cmd .com .dll .dylib .elf .exe .jar .joblib .js .msi .npy .pickle .pkl .ps1 .pt .pth .py "
    ".pyc .pyd .pyz .rb .scr .sh .so .vbs .wasm .whl"
)
_EXECUTABLE_SUFFIXES = frozenset(_SUFFIXES.split())
_EXECUTABLE_HEADERS = (
    b"\x7fELF",  # Linux
    b"MZ",  # Windows
    b"#!",  # script
    b"\xcf\xfa\xed\xfe",  # macOS
    b"\xca\xfe\xba\xbe",  # macOS (universal) or Java
    b"PK\x03\x04",  # zip, jar, wheel
    b"\x93NUMPY",  # arrays, which may hold pickled objects
    *(bytes((0x80, protocol)) for protocol in range(2, 6)),  # pickle
)
# Pickles of protocols 0 and 1 have no header: they are found by operations that call functions.
_PICKLE_CALLS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"})
_PICKLE_BYTES = 1 << 20  # read of each file; a pickle whose calls come later is not found
ONNX_RUNTIMES = ("ort", "openvino", "ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx")


def find_bundle_problems(bundle: Path | str, manifest: Manifest | None = None) -> list[str]:
    """Check every file of a bundle against its manifest; nothing is loaded or run.

    Args:
        bundle: The bundle's folder.
        manifest: Its manifest, where that was read already, so that the check and what follows it see the same; None:
            it is read now.

    Returns:
        One sentence for each problem: a file that is missing, was changed, is a link, has a type that can be executed,
        or reads other files. An empty list means that the bundle is unchanged.

    Raises:
        UserError: The manifest cannot be read (see `Manifest.load`).
    """
    bundle = Path(bundle)
    manifest = manifest or Manifest.load(bundle)
    problems = [
        p
        for file, (sha, size) in list_payload_files(manifest).items()
        if (p := _find_file_problem(bundle, file, sha, size))
    ]
    if not problems:
        problems = find_onnx_problems(bundle, manifest)
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            problems.append(f"{name} is a link; a bundle contains regular files only")
        elif stat.S_ISREG(mode):
            if reason := _why_executable(path):
                problems.append(f"{name} {reason}; a bundle contains no executable files")
        elif not stat.S_ISDIR(mode):
            problems.append(f"{name} is a device, a pipe or a socket; a bundle contains regular files only")
    return problems


def find_onnx_problems(bundle: Path | str, manifest: Manifest) -> list[str]:
    """One sentence for each ONNX file that would read another file, or is not an ONNX file (`find_onnx_problem`)."""
    files = [(a.file, a.runtime == "ort") for a in manifest.artefacts if a.runtime in ONNX_RUNTIMES]
    files += [(manifest.stream.file, True)] if manifest.stream else []
    checked = ((name, find_onnx_problem(resolve_bundle_path(bundle, name), loops=loops)) for name, loops in files)
    return [f"{name} {problem}" for name, problem in checked if problem]


def find_stray_files(bundle: Path | str, manifest: Manifest) -> list[str]:
    """Names of the files in a bundle's folder that its manifest does not list: no hash and no signature covers them.

    Measurements and the signature itself are no strays.
    """
    known = list_payload_files(manifest).keys() | _UNLISTED_FILES
    inside = (p.relative_to(bundle).as_posix() for p in sorted(Path(bundle).rglob("*")) if not p.is_dir())
    return [name for name in inside if name not in known]


def _find_file_problem(bundle: Path, file: str, sha256: str, size: int | None) -> str | None:
    path = resolve_bundle_path(bundle, file)
    if not path.is_file():
        return f"{file} is missing"
    if size is not None and path.stat().st_size != size:
        return f"{file} has {path.stat().st_size} bytes; the manifest states {size}"
    actual = sha256_file(path)
    return None if actual == sha256 else f"{file} has other bytes than were written (sha256 {actual}, not {sha256})"


def _why_executable(path: Path) -> str | None:
    """Why a file may be executable, or None."""
    if path.stat().st_mode & 0o111:
        return "has its executable bit set"
    if path.suffix.lower() in _EXECUTABLE_SUFFIXES:
        return f"is a {path.suffix} file"
    with open_regular_file(path) as file:
        head = file.read(_PICKLE_BYTES)
    if head.startswith(_EXECUTABLE_HEADERS) or _is_pickle_with_calls(head):
        return "starts like a program, a script or a pickle"
    return None


def _is_pickle_with_calls(head: bytes) -> bool:
    """Whether these bytes are a pickle of any protocol that calls a function, up to where it stops or they end."""
    calls = False
    try:
        for operation, _, _ in pickletools.genops(head):
            calls |= operation.name in _PICKLE_CALLS
            if operation.name == "STOP":
                return calls
    except Exception:  # pickletools raises several types on bytes that are no pickle
        return False
    return False
