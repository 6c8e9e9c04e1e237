import hashlib
import json
import os
import stat

import pytest

from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic, write_json


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


def test_a_name_of_250_characters_can_be_written(tmp_path):
    assert write_atomic(tmp_path / ("n" * 250), b"x").read_bytes() == b"x"


def test_the_hash_is_sha256(tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    with pytest.raises(UserError, match="missing"):
        sha256_file(tmp_path / "missing")


def test_bytes_of_a_file_name_that_are_not_utf8_come_back_from_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    assert json.loads(write_json(tmp_path / "x.json", {"file": name}).read_text(encoding="utf-8")) == {"file": name}
    assert write_atomic(tmp_path / "x.txt", name).read_bytes() == b"caf\\udce9.mp4"
