"""Signing a manifest with ssh-keygen, and signatures that are not accepted."""

import shutil
import subprocess

import pytest

from skd_bench.bundle.signing import SIGNATURE_FILE, sign_bundle, verify_signature
from skd_bench.errors import UserError

needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen is installed")


@needs_keygen
@pytest.mark.parametrize("how", ["unsigned", "a stranger", "manifest changed", "another namespace", "no list"])
def test_missing_and_wrong_signatures_are_refused(bundle, keys, how):
    words = {
        "unsigned": "is not signed",
        "a stranger": "is not listed in",
        "manifest changed": "does not match its manifest",
        "another namespace": "does not match its manifest",
        "no list": "the list of signers .* does not exist",
    }[how]
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
def test_a_wrong_key_and_a_changed_bundle_are_refused(bundle, keys):
    (keys / "text").write_text("no key")
    for key, words in (("text", "cannot be signed"), ("gone", "the key file .* does not exist")):
        with pytest.raises(UserError, match=words):
            sign_bundle(bundle, keys / key)
    (bundle / "artefacts/fp32.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="was changed since it was written"):
        sign_bundle(bundle, keys / "anna")
    assert not (bundle / SIGNATURE_FILE).exists()


@needs_keygen
def test_a_signature_names_its_principal_and_survives_a_change_of_measurements(bundle, keys):
    sign_bundle(bundle, keys / "anna")
    (bundle / "measured.json").write_text("{}")
    assert verify_signature(bundle, keys / "signers") == "anna@example.org"


@needs_keygen
@pytest.mark.parametrize("form", ["two lines", "two names in a line", "a comment and a pattern"])
def test_a_key_that_is_listed_more_than_once_verifies(bundle, keys, form):
    key = " ".join((keys / "anna.pub").read_text().split()[:2])
    lines = {
        "two lines": f'git@x namespaces="git" {key}\nanna@x namespaces="skd-edge-bundle" {key}\n',
        "two names in a line": f"anna@x,bert@x {key}\n",
        "a comment and a pattern": f'# {key}\n\ngit@x namespaces="git" {key}\n*@x {key}\n',
    }[form]
    (keys / "signers").write_text(lines)
    sign_bundle(bundle, keys / "anna")
    assert verify_signature(bundle, keys / "signers") == ("*@x" if "pattern" in form else "anna@x")


@needs_keygen
def test_a_key_that_is_listed_for_another_namespace_only_is_refused(bundle, keys):
    key = " ".join((keys / "anna.pub").read_text().split()[:2])
    (keys / "signers").write_text(f'git@x namespaces="git" {key}\ntwo@x namespaces="file" {key}\n')
    sign_bundle(bundle, keys / "anna")
    with pytest.raises(UserError, match="does not match its manifest"):
        verify_signature(bundle, keys / "signers")


def test_without_ssh_keygen_the_error_names_its_package(bundle, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("a key")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="openssh-client"):
        sign_bundle(bundle, tmp_path / "key")
