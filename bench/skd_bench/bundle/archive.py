"""A bundle that came as one zip file: unpacked into a temporary folder, within bounds, or refused.

A zip from elsewhere can name files outside the folder, hold links, or be a bomb: a few kilobytes that inflate to
terabytes. What it says of itself is looked at before a byte is inflated, and nothing inflates beyond that.
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
_MAX_INFLATION = 100  # inflated over packed; weights and videos shrink by less than 10, JSON by less than 50
_ALWAYS_ALLOWED_BYTES = 64 << 20  # bytes that any zip may inflate to, however small it is
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextlib.contextmanager
def open_bundle(bundle: Path | str) -> Iterator[Path]:
    """A bundle's folder: the folder itself, or for the time of the context what a zip file holds.

    Args:
        bundle: A folder, or a zip with a bundle in it, at its top or in one folder.

    Raises:
        UserError: It is neither; or the zip is damaged, a bomb, or names a file outside.
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
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UserError(f"{bundle} is no folder and no whole zip file ({error}); copy it again") from error
        except OSError as error:
            raise UserError(f"cannot unpack {bundle}: {error.strerror or error}") from error
        yield _find_bundle_root(folder, bundle)


def _unpack_zip(packed: zipfile.ZipFile, bundle: Path, folder: Path) -> None:
    entries = [entry for entry in packed.infolist() if not entry.is_dir()]
    if reason := _find_zip_problem(entries, bundle.stat().st_size):
        raise UserError(f"{bundle} is not unpacked: {reason}")
    for entry in entries:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(entry) as source, target.open("xb") as file:  # reads no more than the size it states
            shutil.copyfileobj(source, file, 1 << 20)
        if _read_unix_mode(entry) & 0o111:
            target.chmod(0o755)  # kept to be found: nothing in a bundle is executable


def _find_zip_problem(entries: list[zipfile.ZipInfo], packed_bytes: int) -> str | None:
    if len(entries) > _MAX_FILES:
        return f"it holds {len(entries)} files, and a bundle a few"
    total = sum(entry.file_size for entry in entries)
    if total > max(_ALWAYS_ALLOWED_BYTES, _MAX_INFLATION * packed_bytes):
        return f"its {packed_bytes} bytes would become {total}: a zip bomb"
    for entry in entries:
        try:
            check_bundle_path(entry.filename)
        except ValueError as error:
            return str(error)
        if stat.S_IFMT(_read_unix_mode(entry)) not in (0, stat.S_IFREG):
            return f"{entry.filename} is no plain file"
        if entry.flag_bits & 1 or entry.compress_type not in _METHODS:
            return f"{entry.filename} is encrypted or packed in an unusual way"
    names = [entry.filename.casefold() for entry in entries]
    if len(set(names)) != len(names):
        return "it holds two files of one name"
    return None


def _read_unix_mode(entry: zipfile.ZipInfo) -> int:
    """The Unix mode; 0 where the zip was written on a system without."""
    return entry.external_attr >> 16 if entry.create_system == 3 else 0


def _find_bundle_root(folder: Path, bundle: Path) -> Path:
    """Where the manifest is: at the top, or in the only folder there."""
    if (folder / MANIFEST_FILE).is_file():
        return folder
    inner = [path for path in folder.iterdir()]
    if len(inner) == 1 and (inner[0] / MANIFEST_FILE).is_file():
        return inner[0]
    names = ", ".join(sorted(PurePosixPath(p.name).name for p in inner)[:5]) or "nothing"
    raise UserError(f"{bundle} is a zip without a bundle in it: it holds {names} and no {MANIFEST_FILE}")
