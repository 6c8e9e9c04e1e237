"""Changed, missing, linked and executable files in a bundle are found."""

import os
import pickle

import pytest

from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError


def test_an_unchanged_bundle_has_no_problems(small_bundle):
    assert find_bundle_problems(small_bundle) == []


@pytest.mark.parametrize("file", ["wide.fp32.onnx", "README.md"])
@pytest.mark.parametrize("how", ["flip", "longer", "gone"])
def test_changed_and_missing_files_are_found(small_bundle, file, how):
    path = small_bundle / file
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data + b"x" if how == "longer" else bytes([data[0] ^ 1]) + data[1:])
    (problem,) = find_bundle_problems(small_bundle)
    assert problem.startswith(file)


@pytest.mark.parametrize(
    ("name", "data", "mode", "words"),
    [
        ("run.sh", b"echo", 0o644, "is a .sh file"),
        ("sub/evil.SO", b"", 0o644, "is a .SO file"),
        ("notes.txt", b"hello", 0o755, "executable bit"),
        ("notes.txt", b"#!/bin/sh\n", 0o644, "starts like"),
        ("weights", b"\x80\x04\x95pickle", 0o644, "starts like"),
        *(
            (f"weights{n}", pickle.dumps(os.getcwd, n), 0o644, "starts like")
            for n in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        ("weights", b"(S'ls'\nios\nsystem\n.and more", 0o644, "starts like"),
        ("array", b"\x93NUMPY\x01\x00", 0o644, "starts like"),
        ("model.bin", b"\x7fELF", 0o644, "starts like"),
        ("model.bin", b"\x00\x00\x80?", 0o644, None),  # OpenVINO's weights
        ("classes.txt", b"cat\ndog\nrabbit\n", 0o644, None),
        ("notes.txt", b"hello", 0o644, None),
    ],
)
def test_executable_files_are_found(small_bundle, name, data, mode, words):
    path = small_bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    problems = find_bundle_problems(small_bundle)
    assert problems == [] if words is None else (len(problems) == 1 and name in problems[0] and words in problems[0])


def test_pipes_are_found_and_not_opened(small_bundle):
    os.mkfifo(small_bundle / "pipe")
    [problem] = find_bundle_problems(small_bundle)
    assert "pipe is a device, a pipe or a socket" in problem


def test_links_are_found_and_those_that_lead_out_are_refused(small_bundle, tmp_path):
    os.symlink("README.md", small_bundle / "again.md")
    assert [p for p in find_bundle_problems(small_bundle) if "again.md is a link" in p]
    (tmp_path / "outside").write_bytes((small_bundle / "wide.fp32.onnx").read_bytes())
    (small_bundle / "wide.fp32.onnx").unlink()
    os.symlink("../outside", small_bundle / "wide.fp32.onnx")
    with pytest.raises(UserError, match="leads out"):
        find_bundle_problems(small_bundle)
