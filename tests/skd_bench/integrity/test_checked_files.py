"""A checked file is read as it was written, or not at all, whatever happened to it."""

from __future__ import annotations

import json
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import (
    DamagedFileError,
    describe_files,
    iter_damaged_files,
    read_and_check_files,
    read_checked,
    read_checked_json,
    report_damage,
    write_checked,
    write_checked_json,
)

CONTENT = {"epochs": 3, "curve": [{"loss": 0.1, "terms": {"kd": 1e-300}}], "name": "größer>klein", "none": None}


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 40])
def test_bytes_are_read_as_written(tmp_path, content):
    assert read_checked(write_checked(tmp_path / "a" / "file", content)) == content


def test_json_is_read_as_written_and_may_be_indented_otherwise(tmp_path):
    file = write_checked_json(tmp_path / "file.json", CONTENT)
    assert read_checked_json(file) == CONTENT
    file.write_text(json.dumps(json.loads(file.read_text()), sort_keys=True))
    assert read_checked_json(file) == CONTENT


@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_every_flipped_byte_is_noticed(tmp_path_factory, place, bits):
    file = write_checked(tmp_path_factory.mktemp("flip") / "file", b"some content" * 9)
    stored = bytearray(file.read_bytes())
    stored[int(place * len(stored))] ^= bits
    file.write_bytes(stored)
    with pytest.raises(DamagedFileError, match=r"file is damaged: expected SHA-256 .*, found "):
        read_checked(file)


@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_flipped_byte_of_json_is_noticed_or_changes_nothing(tmp_path_factory, place, bits):
    file = write_checked_json(tmp_path_factory.mktemp("flip") / "file.json", CONTENT)
    stored = bytearray(file.read_bytes())
    stored[int(place * len(stored))] ^= bits
    file.write_bytes(stored)
    with suppress(DamagedFileError):
        assert read_checked_json(file) == CONTENT  # a space between values became another kind of white space


@pytest.mark.parametrize("write", [lambda p: write_checked(p, b"content"), lambda p: write_checked_json(p, CONTENT)])
def test_every_cut_file_is_noticed(tmp_path, write):
    file, read = tmp_path / "file", read_checked
    whole = write(file).read_bytes()
    if whole.startswith(b"{"):
        read = read_checked_json
        whole = whole.rstrip(b"\n")  # without its last newline the object is whole
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            read(file)


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '{"sha256": null}', "{}", "[" * 100_000, '{"a": NaN, "sha256": ""}']
)
def test_other_json_is_damage(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"file\.json is damaged: expected "):
        read_checked_json(tmp_path / "file.json")


@pytest.mark.parametrize("read", [read_checked, read_checked_json, read_and_check_files])
def test_a_missing_file_is_no_damage_and_a_folder_is_an_error(tmp_path, read):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read(tmp_path)


@pytest.fixture
def without_waiting():
    """An error after 20 seconds of waiting for a pipe."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it waits for a pipe"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("read", [read_checked, read_checked_json, read_and_check_files])
def test_a_pipe_is_an_error(tmp_path, read):
    """Reading it would never end."""
    os.mkfifo(tmp_path / "job.json")
    with pytest.raises(UserError, match=r"cannot read .*job\.json: it is a pipe or a device"):
        read(tmp_path / "job.json")


@pytest.mark.usefixtures("without_waiting")
def test_a_pipe_in_the_place_of_a_listed_file_is_an_error(tmp_path):
    manifest = write_folder(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(UserError, match=r"cannot read .*weights\.bin: it is a pipe or a device"):
        read_and_check_files(manifest)


def test_a_huge_file_is_not_read_as_json(tmp_path):
    with (tmp_path / "file.json").open("wb") as file:
        file.truncate(300 << 20)  # sparse
    with pytest.raises(UserError, match="it is larger than 256 MiB"):
        read_checked_json(tmp_path / "file.json")


def write_folder(folder: Path) -> Path:
    for name, content in (("weights.bin", b"w" * 1000), ("logits.bin", b"l" * 10)):
        (folder / name).write_bytes(content)
    files = describe_files(folder, ["weights.bin", "logits.bin"])
    return write_checked_json(folder / "job.json", {"seconds": 1.5, "files": files})


def test_listed_files_are_checked(tmp_path):
    manifest = write_folder(tmp_path)
    assert read_and_check_files(manifest)["seconds"] == 1.5
    (tmp_path / "weights.bin").write_bytes(b"w" * 999 + b"v")
    with pytest.raises(DamagedFileError, match=r"weights\.bin is damaged: expected 1000 bytes with SHA-256 .*, found"):
        read_and_check_files(manifest)
    (tmp_path / "logits.bin").unlink()
    damaged = list(iter_damaged_files(tmp_path, read_checked_json(manifest)["files"]))
    assert [error.path.name for error in damaged] == ["weights.bin", "logits.bin"]
    assert "found no file" in str(damaged[1])


def test_the_user_reads_what_is_damaged_and_what_is_done(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report_damage(DamagedFileError(tmp_path / "a", "this", "that"), "it is made again")
    assert caplog.messages == [f"warning: {tmp_path / 'a'} is damaged: expected this, found that; it is made again"]


def test_a_stranger_cannot_write_to_the_terminal_through_a_warning(tmp_path, caplog):
    """Neither by the name of a file nor by the checksum in it."""
    for folder in ("a\x1b[2J\nb", "c"):
        file = write_checked_json(tmp_path / folder / "job.json", CONTENT)
        stored = json.loads(file.read_text())
        file.write_text(json.dumps(stored | {"sha256": "\x1b[31m\u202e\nskd-edge: signed"}))
        with pytest.raises(DamagedFileError) as error:
            read_checked_json(file)
        report_damage(error.value, "it is made again")
    assert all(message.isprintable() for message in caplog.messages)
    assert "a\\u001b[2J\\u000ab/job.json is damaged" in caplog.messages[0]


def test_a_description_does_not_lead_out_of_its_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "other.txt").write_text("not ours")
    described = {"../other.txt": describe_files(tmp_path, ["other.txt"])["other.txt"]}
    (error,) = iter_damaged_files(tmp_path / "inside", described)
    assert "the path of a file inside the folder" in str(error)
