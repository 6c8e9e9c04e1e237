"""The check of a bundle's files against its manifest: hashes and kinds. Nothing is loaded or run."""

from __future__ import annotations

from pathlib import Path

from skd_bench.bundle.manifest import Manifest, list_payload_files, resolve_bundle_path
from skd_bench.files import sha256_file

# fmt: off
_EXECUTABLE_SUFFIXES = frozenset({
    ".app", ".bat", ".bin", ".class", ".cmd", ".com", ".dll", ".dylib", ".elf", ".exe", ".jar", ".joblib", ".js",
    ".msi", ".npy", ".pickle", ".pkl", ".ps1", ".pt", ".pth", ".py", ".pyc", ".pyd", ".pyz", ".rb", ".scr", ".sh",
    ".so", ".vbs", ".wasm", ".whl",
})
# fmt: on
_EXECUTABLE_HEADERS = (
    b"\x7fELF",
    b"MZ",
    b"#!",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x04",
)


def find_bundle_problems(bundle: Path | str) -> list[str]:
    """Check every file of a bundle against its manifest; nothing is loaded or run.

    Returns:
        One sentence a problem: a file that is missing, has other bytes than were written, is a link, or is of a
        kind that can be executed. An empty list means that the bundle is as it was written.

    Raises:
        UserError: There is no readable manifest (`Manifest.load`).
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
            problems.append(f"{name} is a link; a bundle holds plain files only")
        elif path.is_file() and (reason := _why_executable(path)):
            problems.append(f"{name} {reason}; nothing in a bundle is meant to be executed")
    return problems


def _find_file_problem(bundle: Path, file: str, sha256: str, size: int | None) -> str | None:
    path = resolve_bundle_path(bundle, file)
    if not path.is_file():
        return f"{file} is missing"
    if size is not None and path.stat().st_size != size:
        return f"{file} has {path.stat().st_size} bytes and the manifest says {size}"
    actual = sha256_file(path)
    return None if actual == sha256 else f"{file} has other bytes than were written (sha256 {actual}, not {sha256})"


def _why_executable(path: Path) -> str | None:
    """Why a file counts as executable, or None."""
    if path.stat().st_mode & 0o111:
        return "has its executable bit set"
    if path.suffix.lower() in _EXECUTABLE_SUFFIXES:
        return f"is a {path.suffix} file"
    with path.open("rb") as file:
        head = file.read(4)
    return "begins like a program, a script or a pickle" if head.startswith(_EXECUTABLE_HEADERS) else None
