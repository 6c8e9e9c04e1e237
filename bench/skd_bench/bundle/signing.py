"""Who made a bundle: its manifest signed with an SSH key, and the signature checked against known signers.

Hashes tell that files are those of the manifest; anybody can write a manifest. The manifest holds the hash of every
file of the payload, so one signature of it is one of them all (not of ``measured.json``). ``ssh-keygen -Y`` does both:
keys that people have already, and an ``allowed_signers`` file as git takes it.
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
_TIMEOUT_S = 120  # seconds: time to touch a hardware key or to type a passphrase


def sign_bundle(bundle: Path | str, key: Path | str) -> Path:
    """Sign a bundle's manifest.

    Args:
        bundle: A bundle that is as it was written.
        key: A private SSH key, or the public half of one that ssh-agent holds.

    Returns:
        The signature's file, in the bundle.

    Raises:
        UserError: The bundle is not as it was written, the key cannot be used, or there is no ssh-keygen.
    """
    bundle, key = Path(bundle), Path(key)
    if problems := find_bundle_problems(bundle):
        raise UserError(f"{bundle} is not as it was written and is not signed: {'; '.join(problems)}")
    if not key.is_file():
        raise UserError(f"there is no key {key}; make one with: ssh-keygen -t ed25519 -f {key}")
    manifest, signature = bundle.resolve() / MANIFEST_FILE, bundle.resolve() / SIGNATURE_FILE
    signature.unlink(missing_ok=True)  # ssh-keygen asks before it overwrites
    done = _run_ssh_keygen(["-Y", "sign", "-f", str(key.resolve()), "-n", SIGNATURE_NAMESPACE, str(manifest)])
    if done.returncode or not signature.is_file():
        raise UserError(f"{bundle} cannot be signed with {key}: {_last_error_line(done)}")
    signature.chmod(0o644)
    return bundle / SIGNATURE_FILE


def verify_signature(bundle: Path | str, signers: Path | str) -> str:
    """Who of some signers signed a bundle's manifest; whether its files are the manifest's is `verify`'s business.

    Args:
        bundle: The bundle's folder.
        signers: Lines of ``principal key-type key``: ssh-keygen's allowed_signers.

    Returns:
        The principal.

    Raises:
        UserError: There is no signature, it is of another manifest or of nobody in the list, or there is no ssh-keygen.
    """
    bundle, signers = Path(bundle), Path(signers)
    manifest, signature = bundle.resolve() / MANIFEST_FILE, bundle.resolve() / SIGNATURE_FILE
    if not signers.is_file():
        raise UserError(f"there is no list of signers {signers}; a line of it reads: you@example.org ssh-ed25519 AAAA…")
    if not signature.is_file():
        raise UserError(f"{bundle} is not signed: it has no {SIGNATURE_FILE}; ask its maker for: skd-edge sign")
    listed = ["-f", str(signers.resolve()), "-s", str(signature)]
    found = _run_ssh_keygen(["-Y", "find-principals", *listed])
    if found.returncode or not found.stdout.strip():
        raise UserError(f"{bundle} is signed by nobody in {signers}: {_last_error_line(found)}")
    principal = found.stdout.decode(errors="replace").splitlines()[0].strip()
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {manifest}: {error.strerror or error}") from error
    checked = _run_ssh_keygen(["-Y", "verify", *listed, "-I", principal, "-n", SIGNATURE_NAMESPACE], content)
    if checked.returncode:
        raise UserError(
            f"{bundle} has a signature of {principal} that does not belong to its manifest: {_last_error_line(checked)}"
        )
    return principal


def _run_ssh_keygen(words: list[str], content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise UserError("signing needs ssh-keygen (Debian: openssh-client), which is not installed")
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
        raise UserError(f"ssh-keygen gave no answer within {_TIMEOUT_S} s; is it waiting for a passphrase?") from None


def _last_error_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
