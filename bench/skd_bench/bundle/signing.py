"""Signatures: the manifest of a bundle is signed with an SSH key and checked against a list of known signers.

Hashes show that the files match the manifest, but anyone can write a manifest. A signature shows who wrote it. The
manifest contains the hash of every payload file, so its signature covers them all (but not ``measured.json``).
``ssh-keygen -Y`` signs and checks, with existing SSH keys and with git's format of ``allowed_signers`` files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from skd_bench.bundle.manifest import MANIFEST_FILE
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError

SIGNATURE_FILE, SIGNATURE_NAMESPACE = f"{MANIFEST_FILE}.sig", "skd-edge-bundle"
_TIMEOUT_S = 120  # time to touch a hardware key or to type a passphrase


def sign_bundle(bundle: Path | str, key: Path | str) -> Path:
    """Sign a bundle's manifest.

    Args:
        bundle: The folder of an unchanged bundle.
        key: A private SSH key, or the public key of one in ssh-agent.

    Returns:
        The path of the signature file, in the bundle.

    Raises:
        UserError: The bundle was changed, the key cannot be used, or ssh-keygen is not installed.
    """
    bundle, key = Path(bundle), Path(key)
    if problems := find_bundle_problems(bundle):
        raise UserError(f"{bundle} was changed since it was written, so it is not signed: {'; '.join(problems)}")
    if not key.is_file():
        raise UserError(f"the key file {key} does not exist; create a key with: ssh-keygen -t ed25519 -f {key}")
    manifest, signature = bundle.resolve() / MANIFEST_FILE, bundle.resolve() / SIGNATURE_FILE
    signature.unlink(missing_ok=True)  # ssh-keygen would prompt before it overwrites the file
    done = _run_ssh_keygen(["-Y", "sign", "-f", str(key.resolve()), "-n", SIGNATURE_NAMESPACE, str(manifest)])
    if done.returncode or not signature.is_file():
        raise UserError(f"{bundle} cannot be signed with {key}: {_last_error_line(done)}")
    signature.chmod(0o644)
    return bundle / SIGNATURE_FILE


def verify_signature(bundle: Path | str, signers: Path | str) -> str:
    """Check the signature of a bundle's manifest. Its files are checked by `find_bundle_problems`.

    Args:
        bundle: The bundle's folder.
        signers: The accepted signers: a file in ssh-keygen's allowed_signers format (``principal key-type key``).

    Returns:
        The principal whose key signed the manifest.

    Raises:
        UserError: The bundle has no signature, its signer is not in the list, the signature belongs to another
            manifest, or ssh-keygen is not installed.
    """
    bundle, signers = Path(bundle), Path(signers)
    manifest, signature = bundle.resolve() / MANIFEST_FILE, bundle.resolve() / SIGNATURE_FILE
    if not signers.is_file():
        line = "you@example.org ssh-ed25519 AAAA…"
        raise UserError(f"the list of signers {signers} does not exist; create it with lines such as: {line}")
    if not signature.is_file():
        raise UserError(f"{bundle} is not signed: it has no {SIGNATURE_FILE}; ask its author to run: skd-edge sign")
    listed = ["-f", str(signers.resolve()), "-s", str(signature)]
    found = _run_ssh_keygen(["-Y", "find-principals", *listed])
    if found.returncode or not found.stdout.strip():
        raise UserError(f"the signer of {bundle} is not listed in {signers}: {_last_error_line(found)}")
    principal = found.stdout.decode(errors="replace").splitlines()[0].strip()
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {manifest}: {error.strerror or error}") from error
    checked = _run_ssh_keygen(["-Y", "verify", *listed, "-I", principal, "-n", SIGNATURE_NAMESPACE], content)
    if checked.returncode:
        raise UserError(
            f"{bundle} has a signature of {principal} that does not match its manifest: {_last_error_line(checked)}"
        )
    return principal


def _run_ssh_keygen(words: list[str], content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise UserError("signatures need ssh-keygen, which is not installed (Debian: apt install openssh-client)")
    stdin = subprocess.DEVNULL if content is None else None
    try:
        return subprocess.run(
            [program, *words],
            stdin=stdin,
            input=content,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"ssh-keygen did not finish in {_TIMEOUT_S} s; it may be waiting for a passphrase") from None


def _last_error_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
