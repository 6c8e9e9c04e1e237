"""Bundles in zip files: correct ones are unpacked, hostile and damaged ones are refused."""

import stat
import struct
import zipfile

import pytest

from skd_bench.bundle.archive import open_bundle
from skd_bench.errors import UserError


def entry(name, mode=0o100644):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def hostile(path, kind):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        if kind == "bomb":
            file.writestr("manifest.json", bytes(200 << 20))
        elif kind == "many":
            for i in range(1001):
                file.writestr(f"{i}", b"")
        elif kind == "twice":
            file.writestr("a", b"1")
            file.writestr("A", b"2")
        elif kind == "nothing":
            file.writestr("photo.jpg", b"1")
        elif kind == "link":
            file.writestr(entry("manifest.json", stat.S_IFLNK | 0o777), "/etc/passwd")
        else:
            file.writestr(entry(kind), b"x")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bomb", "like a zip bomb"),
        ("many", "1001 files"),
        ("twice", "two files with the same name"),
        ("link", "not a regular file"),
        ("nothing", "without a bundle"),
        ("../climbs", "not a plain relative path"),
        ("/absolute", "not a plain relative path"),
        ("a\\..\\b", "not a plain relative path|without a bundle"),
        ("C:x", "not a plain relative path"),
    ],
)
def test_hostile_zips_are_refused(tmp_path, kind, words):
    (tmp_path / "in").mkdir()
    path = hostile(tmp_path / "in" / "b.zip", kind)
    with pytest.raises(UserError, match=words), open_bundle(path):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "b.zip"]


def test_a_zip_with_false_sizes_is_not_unpacked_beyond_them(tmp_path):
    path = hostile(tmp_path / "b.zip", "bomb")
    data, size = bytearray(path.read_bytes()), struct.pack("<I", 200 << 20)
    for at in [i for i in range(len(data)) if data[i : i + 4] == size]:
        data[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="not a complete zip file"), open_bundle(path):
        pass


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_a_file_that_is_not_a_zip_is_refused(tmp_path, content):
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(UserError, match="not a complete zip file"), open_bundle(tmp_path / "b.zip"):
        pass


def test_a_folder_is_given_back_and_an_unpacked_zip_is_deleted(tmp_path):
    with open_bundle(tmp_path) as folder:
        assert folder == tmp_path
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("inner/manifest.json", "{}")
        file.writestr(entry("inner/run.sh", 0o100755), b"x")
    with open_bundle(tmp_path / "b.zip") as folder:
        assert folder.name == "inner"
        assert (folder / "manifest.json").read_text() == "{}"
        assert (folder / "run.sh").stat().st_mode & 0o111  # for the check of executable files
        assert not (folder / "manifest.json").stat().st_mode & 0o111
    assert not folder.exists()
