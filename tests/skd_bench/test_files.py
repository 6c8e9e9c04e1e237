import hashlib
import json
import os
import socket
import stat

import pytest

from skd_bench.errors import UserError
from skd_bench.files import (
    open_regular_file,
    open_regular_text,
    read_regular_file,
    sha256_file,
    write_atomic,
    write_json,
)


def test_text_and_bytes_are_written_unchanged(tmp_path):
    assert write_atomic(tmp_path / "a" / "b.txt", "für\n").read_bytes() == "für\n".encode()
    assert write_atomic(tmp_path / "c", b"\0\r\n").read_bytes() == b"\0\r\n"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b.txt", "c"]


def test_a_file_is_replaced_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": [1.5, "ü"]})
    write_json(path, {"b": 2})
    assert json.loads(path.read_text("utf-8")) == {"b": 2}
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"old": True})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": float("nan")})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder"):
        write_atomic(tmp_path / "folder", "text")
    assert json.loads(path.read_text()) == {"old": True}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "x.json"]


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "file" / "inside", "text")


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "socket"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "x.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        (tmp_path / "target").write_text("mine")
        path.symlink_to(tmp_path / ("target" if kind == "link" else "nowhere"))
    before = path.lstat()
    with pytest.raises(UserError, match=r"it is a (link|device, a pipe or a socket), which would be replaced"):
        write_atomic(path, "text")
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert not list(tmp_path.glob("*.part"))


def test_a_name_of_250_characters_can_be_written(tmp_path):
    assert write_atomic(tmp_path / ("n" * 250), b"x").read_bytes() == b"x"


def test_the_hash_is_sha256(tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    with pytest.raises(UserError, match="missing"):
        sha256_file(tmp_path / "missing")


def test_names_that_are_not_utf8_survive_in_json_and_in_text(tmp_path):
    name = b"caf\xe9\n.mp4".decode("utf-8", "surrogateescape")
    path = write_json(tmp_path / "a.json", {name: [name, "\ud800"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {name: [name, "\ud800"]}
    assert write_atomic(tmp_path / "a.html", f"<td>{name}</td>").read_bytes() == b"<td>caf\xe9\n.mp4</td>"
    assert write_atomic(tmp_path / "b.html", "<td>\ud800</td>").read_bytes() == b"<td>\\ud800</td>"


def test_pipes_devices_and_folders_are_refused_and_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "pipe or a device"),
        ("/dev/zero", "pipe or a device"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(OSError, match=words):
            open_regular_file(path)
    with pytest.raises(UserError, match="pipe or a device"):
        sha256_file(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file's name"):
        open_regular_file("a\0b")
    with pytest.raises(FileNotFoundError):
        open_regular_file(tmp_path / "gone")


def test_regular_files_are_read_through_the_door(tmp_path):
    (tmp_path / "a").write_bytes("ä\r\n".encode())
    assert open_regular_file(tmp_path / "a").read() == "ä\r\n".encode()
    assert open_regular_text(tmp_path / "a", newline="").read() == "ä\r\n"
    assert read_regular_file(tmp_path / "a", 4) == "ä\r\n".encode()
    with pytest.raises(OSError, match="larger than 0 KiB"):
        read_regular_file(tmp_path / "a", 3)
