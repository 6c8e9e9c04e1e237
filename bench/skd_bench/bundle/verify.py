"""Checks a bundle's files against its manifest: hashes, sizes and file types. Nothing is loaded or run."""

from __future__ import annotations

from pathlib import Path

from skd_bench.bundle.manifest import Manifest, list_payload_files, resolve_bundle_path
from skd_bench.files import sha256_file

# Programs, scripts, libraries, and formats that can run code when they are loaded (pickle, PyTorch, NumPy objects).
_SUFFIXES = (
    ".app .bat .bin .class .cmd .com .dll .dylib .elf .exe .jar .joblib .js .msi .npy .pickle .pkl .ps1 .pt .pth .py "
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
    b"\x80\x02",  # pickle, protocol 2
    b"\x80\x04",  # pickle, protocol 4
)


def find_bundle_problems(bundle: Path | str) -> list[str]:
    """Check every file of a bundle against its manifest; nothing is loaded or run.

    Returns:
        One sentence for each problem: a file that is missing, was changed, is a link, or has a type that can be
        executed. An empty list means that the bundle is unchanged.

    Raises:
        UserError: The manifest cannot be read (see `Manifest.load`).
    """
    bundle = Path(bundle)
    manifest = Manifest.load(bundle)
    problems = [
        p
        for file, (sha, size) in list_payload_files(manifest).items()
        if (p := _find_file_problem(bundle, file, sha, size))
    ]
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if path.is_symlink():
            problems.append(f"{name} is a link; a bundle contains regular files only")
        elif path.is_file() and (reason := _why_executable(path)):
            problems.append(f"{name} {reason}; a bundle contains no executable files")
    return problems


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
    with path.open("rb") as file:
        head = file.read(4)
    return "starts like a program, a script or a pickle" if head.startswith(_EXECUTABLE_HEADERS) else None
