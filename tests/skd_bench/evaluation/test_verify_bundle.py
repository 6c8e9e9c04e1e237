"""`skd-edge verify` on bundles that were tampered with, signed, zipped, or that answer otherwise here."""

import json
import shutil
import stat
import struct
import subprocess
import zipfile

import pytest

from skd_bench.bundle.archive import open_bundle
from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.signing import SIGNATURE_FILE, sign_bundle, verify_signature
from skd_bench.errors import UserError
from skd_bench.evaluation.replay import ANSWERS_FILE, compute_sample_logits
from skd_bench.evaluation.verify_bundle import verify_bundle
from skd_bench.files import sha256_file, write_json

needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen is installed")


@pytest.fixture
def answered(bundle_with_samples):
    """A bundle with sample clips and what its file says of them."""
    note(bundle_with_samples, compute_sample_logits(bundle_with_samples, Manifest.load(bundle_with_samples)))
    return bundle_with_samples


def note(bundle, answers):
    write_json(bundle / ANSWERS_FILE, answers)
    path = bundle / "manifest.json"
    data = json.loads(path.read_text()) | {"documents": {ANSWERS_FILE: sha256_file(bundle / ANSWERS_FILE)}}
    path.write_text(json.dumps(data))


# ------------------------------------------------------------------------------------------------------ answers
def test_an_intact_bundle_answers_as_it_did(answered):
    found = verify_bundle(answered)
    [answer] = found.answers
    assert (answer.clips, answer.relative, answer.flips, answer.problem) == (2, pytest.approx(0, abs=1e-5), 0, None)
    assert found.problems == []
    assert "2 sample clips" in found.to_text()
    assert verify_bundle(answered, run=False).answers == []


def test_other_answers_here_are_a_problem(answered):
    known = json.loads((answered / ANSWERS_FILE).read_text())
    known["artefacts/fp32.onnx"]["samples/0.mp4"].reverse()
    note(answered, known)
    [problem] = verify_bundle(answered).problems
    assert "answers otherwise here" in problem
    assert "1 of 2 sample clips" in problem


@pytest.mark.parametrize(
    "content",
    ["[", "[]", '{"artefacts/fp32.onnx": {"samples/0.mp4": "x"}}', '{"artefacts/fp32.onnx": {"samples/0.mp4": [1]}}'],
)
def test_answers_that_are_none_are_refused(answered, content):
    (answered / ANSWERS_FILE).write_text(content)
    path = answered / "manifest.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"documents": {ANSWERS_FILE: sha256_file(answered / ANSWERS_FILE)}})
    )
    with pytest.raises(UserError, match="cannot be read as logits"):
        verify_bundle(answered)


def test_nothing_is_run_before_all_hashes_are_right(answered):
    (answered / "artefacts/fp32.onnx").write_bytes(b"not what was written")
    found = verify_bundle(answered)
    assert found.answers == []
    assert "fp32.onnx" in found.problems[0]


def test_strays_are_named(answered):
    (answered / "notes.txt").write_text("from a colleague")
    found = verify_bundle(answered, run=False)
    assert found.strays == ["notes.txt"]
    assert found.problems == []


# ------------------------------------------------------------------------------------------------------ signatures
@pytest.fixture
def keys(tmp_path):
    """Private keys of anna and of a stranger, and a list that names anna alone."""
    for name in ("anna", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name], check=True)
    (tmp_path / "signers").write_text(f"anna@example.org {(tmp_path / 'anna.pub').read_text()}")
    return tmp_path


@needs_keygen
def test_signed_and_checked(bundle, keys):
    before = sha256_file(bundle / "manifest.json")
    for _ in range(2):  # signing again replaces the signature
        assert sign_bundle(bundle, keys / "anna") == bundle / SIGNATURE_FILE
    found = verify_bundle(bundle, signers=keys / "signers")
    assert (found.signer, found.problems, found.strays) == ("anna@example.org", [], [])
    assert found.payload == before
    assert "not checked" in verify_bundle(bundle).to_text()


@needs_keygen
@pytest.mark.parametrize("how", ["nobody", "a stranger", "manifest changed", "another namespace", "no list"])
def test_signatures_that_do_not_hold_are_refused(bundle, keys, how):
    words = "not signed|signed by nobody|does not belong|no list of signers"
    if how in ("manifest changed", "no list"):
        sign_bundle(bundle, keys / "anna")
    if how == "manifest changed":
        path = bundle / "manifest.json"
        path.write_text(path.read_text().replace('"tiny bundle"', '"tidy bundle"'))
    elif how == "a stranger":
        sign_bundle(bundle, keys / "stranger")
    elif how == "another namespace":
        subprocess.run(
            ["ssh-keygen", "-q", "-Y", "sign", "-f", keys / "anna", "-n", "git", bundle / "manifest.json"], check=True
        )
    with pytest.raises(UserError, match=words):
        verify_signature(bundle, keys / ("none" if how == "no list" else "signers"))


@needs_keygen
def test_what_cannot_be_signed_is_told(bundle, keys):
    (keys / "text").write_text("no key")
    for key, words in (("text", "cannot be signed"), ("gone", "there is no key")):
        with pytest.raises(UserError, match=words):
            sign_bundle(bundle, keys / key)
    (bundle / "artefacts/fp32.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="not as it was written"):
        sign_bundle(bundle, keys / "anna")
    assert not (bundle / SIGNATURE_FILE).exists()


# ------------------------------------------------------------------------------------------------------ zip files
def zipped(bundle, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for p in sorted(bundle.rglob("*")):
            file.write(p, prefix + p.relative_to(bundle).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "bündel/"])
def test_a_zip_is_examined_as_its_folder(answered, tmp_path, prefix):
    found = verify_bundle(zipped(answered, tmp_path / "b.zip", prefix))
    assert found.problems == []
    assert found.payload == verify_bundle(answered).payload
    assert len(found.answers) == 1


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
        ("bomb", "a zip bomb"),
        ("many", "1001 files"),
        ("twice", "two files of one name"),
        ("link", "no plain file"),
        ("nothing", "without a bundle"),
        ("../climbs", "no plain path"),
        ("/absolute", "no plain path"),
        ("a\\..\\b", "no plain path|without a bundle"),
        ("C:x", "no plain path"),
    ],
)
def test_hostile_zips_are_refused(tmp_path, kind, words):
    path = hostile(tmp_path / "in" / "b.zip" if (tmp_path / "in").mkdir() is None else tmp_path, kind)
    with pytest.raises(UserError, match=words), open_bundle(path):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "b.zip"]


def test_a_zip_that_lies_about_its_sizes_inflates_to_no_more(tmp_path):
    path = hostile(tmp_path / "b.zip", "bomb")
    data, size = bytearray(path.read_bytes()), struct.pack("<I", 200 << 20)
    for at in [i for i in range(len(data)) if data[i : i + 4] == size]:
        data[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="no whole zip file"), open_bundle(path):
        pass


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_what_is_no_zip_is_told(tmp_path, content):
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(UserError, match="no folder and no whole zip file"), open_bundle(tmp_path / "b.zip"):
        pass
