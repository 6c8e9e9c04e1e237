"""`skd-edge verify` on bundles that are unchanged, changed, signed or zipped."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from skd_bench.bundle.signing import SIGNATURE_FILE, sign_bundle
from skd_bench.evaluation.verify_bundle import verify_bundle
from skd_bench.files import sha256_file

needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen is installed")


# ------------------------------------------------------------------------------------------------------ answers
def test_an_unchanged_bundle_gives_the_recorded_logits(answered):
    found = verify_bundle(answered)
    [answer] = found.answers
    assert (answer.clips, answer.relative, answer.flips, answer.problem) == (2, pytest.approx(0, abs=1e-5), 0, None)
    assert found.problems == []
    assert "2 sample clips" in found.to_text()
    assert verify_bundle(answered, run=False).answers == []


def test_no_file_is_run_if_a_hash_differs(answered):
    (answered / "artefacts/fp32.onnx").write_bytes(b"other content")
    found = verify_bundle(answered)
    assert found.answers == []
    assert "fp32.onnx" in found.problems[0]


def test_files_outside_the_manifest_are_listed(answered):
    (answered / "notes.txt").write_text("from a colleague")
    found = verify_bundle(answered, run=False)
    assert found.strays == ["notes.txt"]
    assert found.problems == []
    assert "WARNING" in found.to_text()
    assert verify_bundle(answered, strict=True).problems == [
        "notes.txt is not part of the bundle: its manifest does not list it"
    ]
    assert "WARNING" in verify_bundle(answered, strict=False).to_text()


def test_the_manifest_is_read_once(answered, monkeypatch):
    """Between two reads somebody could swap it, so that another manifest is signed than the one that is run."""
    opened = []
    original = os.open

    def count(path, *arguments, **options):
        opened.append(Path(path).name)
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", count)
    found = verify_bundle(answered)
    assert found.answers
    # The check of file types looks at the first bytes of every file, and at nothing else.
    reads = [name for name in opened if name == "manifest.json"]
    assert len(reads) == 2


# ------------------------------------------------------------------------------------------------------ signatures
@needs_keygen
def test_a_signature_is_checked_and_reported(bundle, keys):
    before = sha256_file(bundle / "manifest.json")
    for _ in range(2):  # signing again replaces the signature
        assert sign_bundle(bundle, keys / "anna") == bundle / SIGNATURE_FILE
    found = verify_bundle(bundle, signers=keys / "signers")
    assert (found.signer, found.problems, found.strays) == ("anna@example.org", [], [])
    assert found.payload == before
    assert "not checked" in verify_bundle(bundle).to_text()


# ------------------------------------------------------------------------------------------------------ zip files
def zipped(bundle, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for p in sorted(bundle.rglob("*")):
            file.write(p, prefix + p.relative_to(bundle).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "bündel/"])
def test_a_zip_gives_the_same_result_as_its_folder(answered, tmp_path, prefix):
    found = verify_bundle(zipped(answered, tmp_path / "b.zip", prefix))
    assert found.problems == []
    assert found.payload == verify_bundle(answered).payload
    assert len(found.answers) == 1
