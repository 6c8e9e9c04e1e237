"""Bundles in one zip file: the zip is checked, then unpacked into a temporary folder.

A zip file from elsewhere can name files outside the folder, contain links, or be a zip bomb: a few kilobytes that
expand to terabytes. Its directory is checked before any byte is unpacked, and no file grows beyond its declared size.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from skd_bench.bundle.manifest import MANIFEST_FILE, check_bundle_path
from skd_bench.errors import UserError

_MAX_FILES = 1000
_MAX_INFLATION = 100  # unpacked size over zip size; weights and videos reach less than 10, JSON less than 50
_ALWAYS_ALLOWED_BYTES = 64 << 20  # any zip may unpack to this size, however small it is
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextlib.contextmanager
def open_bundle(bundle: Path | str) -> Iterator[Path]:
    """Open a bundle that may be a zip file, as a context manager.

    Args:
        bundle: A folder, or a zip file with a bundle at its top or in its only folder.

    Yields:
        The bundle's folder. For a zip file it is a temporary folder, which is deleted at the end of the context.

    Raises:
        UserError: The file is not a zip file with a bundle, or the zip file is damaged, a zip bomb, or names a file
            outside its folder.
    """
    bundle = Path(bundle)
    if not bundle.is_file():
        yield bundle
        return
    with tempfile.TemporaryDirectory(prefix="skd-zip-") as temporary:
        folder = Path(temporary)
        try:
            with zipfile.ZipFile(bundle) as packed:
                _unpack_zip(packed, bundle, folder)
        # zipfile raises NotImplementedError for a compression or version that it does not know.
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UserError(f"{bundle} is not a complete zip file ({error}); copy it again") from error
        except OSError as error:
            raise UserError(f"cannot unpack {bundle}: {error.strerror or error}") from error
        yield _find_bundle_root(folder, bundle)


def _unpack_zip(packed: zipfile.ZipFile, bundle: Path, folder: Path) -> None:
    entries = [entry for entry in packed.infolist() if not entry.is_dir()]
    if reason := _find_zip_problem(entries, bundle.stat().st_size):
        raise UserError(f"refused to unpack {bundle}: {reason}")
    for entry in entries:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(entry) as source, target.open("xb") as file:  # reads at most the declared size
            shutil.copyfileobj(source, file, 1 << 20)
        if _read_unix_mode(entry) & 0o111:
            target.chmod(0o755)  # keep the bit: `find_bundle_problems` reports executable files


def _find_zip_problem(entries: list[zipfile.ZipInfo], packed_bytes: int) -> str | None:
    if len(entries) > _MAX_FILES:
        return f"it contains {len(entries)} files; a bundle has at most {_MAX_FILES}"
    total = sum(entry.file_size for entry in entries)
    if total > max(_ALWAYS_ALLOWED_BYTES, _MAX_INFLATION * packed_bytes):
        return f"its {packed_bytes} bytes would expand to {total}, like a zip bomb"
    for entry in entries:
        try:
            check_bundle_path(entry.filename)
        except ValueError as error:
            return str(error)
        if stat.S_IFMT(_read_unix_mode(entry)) not in (0, stat.S_IFREG):
            return f"{entry.filename} is not a regular file"
        if entry.flag_bits & 1 or entry.compress_type not in _METHODS:
            return f"{entry.filename} is encrypted or uses an unsupported compression method"
    names = [entry.filename.casefold() for entry in entries]
    if len(set(names)) != len(names):
        return "it contains two files with the same name"
    return None


def _read_unix_mode(entry: zipfile.ZipInfo) -> int:
    """The Unix mode; 0 if the zip was written on another system."""
    return entry.external_attr >> 16 if entry.create_system == 3 else 0


def _find_bundle_root(folder: Path, bundle: Path) -> Path:
    """The folder with the manifest: the top of the zip, or its only folder."""
    if (folder / MANIFEST_FILE).is_file():
        return folder
    inner = list(folder.iterdir())
    if len(inner) == 1 and (inner[0] / MANIFEST_FILE).is_file():
        return inner[0]
    names = ", ".join(sorted(PurePosixPath(p.name).name for p in inner)[:5]) or "nothing"
    raise UserError(f"{bundle} is a zip file without a bundle: it contains {names} but no {MANIFEST_FILE}")
