"""Signatures: the manifest of a bundle is signed with an SSH key and checked against a list of known signers.

Hashes show that the files match the manifest, but anyone can write a manifest. A signature shows who wrote it. The
manifest contains the hash of every payload file, so its signature covers them all (but not ``measured.json``).
``ssh-keygen -Y`` signs and checks, with existing SSH keys and with git's format of ``allowed_signers`` files.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from skd_bench.bundle.manifest import read_manifest_file
from skd_bench.bundle.verify import SIGNATURE_FILE, find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.files import write_atomic

__all__ = ["SIGNATURE_FILE", "sign_bundle", "verify_signature"]
SIGNATURE_NAMESPACE = "skd-edge-bundle"
_MAX_PRINCIPALS = 100  # tried for one signature
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
    read = read_manifest_file(bundle)
    if problems := find_bundle_problems(bundle, read.manifest):
        raise UserError(f"{bundle} was changed since it was written, so it is not signed: {'; '.join(problems)}")
    if not key.is_file():
        raise UserError(f"the key file {key} does not exist; create a key with: ssh-keygen -t ed25519 -f {key}")
    # The bytes that were checked are signed, and not those that the file may hold by now.
    done = _run_ssh_keygen(["-Y", "sign", "-f", str(key.resolve()), "-n", SIGNATURE_NAMESPACE], read.content)
    if done.returncode or not done.stdout.strip():
        raise UserError(f"{bundle} cannot be signed with {key}: {_last_error_line(done)}")
    return write_atomic(bundle / SIGNATURE_FILE, done.stdout)


def verify_signature(bundle: Path | str, signers: Path | str, content: bytes | None = None) -> str:
    """Check the signature of a bundle's manifest. Its files are checked by `find_bundle_problems`.

    Args:
        bundle: The bundle's folder.
        signers: The accepted signers: a file in ssh-keygen's allowed_signers format (``principal key-type key``).
        content: The bytes of the manifest, where it was read already; None: it is read now.

    Returns:
        The principal whose key signed the manifest.

    Raises:
        UserError: The bundle has no signature, its signer is not in the list, the signature belongs to another
            manifest, or ssh-keygen is not installed.
    """
    bundle, signers = Path(bundle), Path(signers)
    signature = bundle.resolve() / SIGNATURE_FILE
    if not signers.is_file():
        line = "you@example.org ssh-ed25519 AAAA…"
        raise UserError(f"the list of signers {signers} does not exist; create it with lines such as: {line}")
    if not signature.is_file():
        raise UserError(f"{bundle} is not signed: it has no {SIGNATURE_FILE}; ask its author to run: skd-edge sign")
    content = read_manifest_file(bundle).content if content is None else content
    found = _run_ssh_keygen(["-Y", "find-principals", "-f", str(signers.resolve()), "-s", str(signature)])
    if found.returncode or not found.stdout.strip():
        raise UserError(f"the signer of {bundle} is not listed in {signers}: {_last_error_line(found)}")
    principals = _split_principals(found)
    reason = ""
    with tempfile.TemporaryDirectory(prefix="skd-signers-") as folder:
        for listed, principal in _iter_principals(signers, signature, Path(folder)):
            words = ["-Y", "verify", "-f", str(listed), "-s", str(signature), "-I", principal]
            checked = _run_ssh_keygen([*words, "-n", SIGNATURE_NAMESPACE], content)
            if not checked.returncode:
                return principal
            reason = reason or _last_error_line(checked)
    raise UserError(f"{bundle} has a signature of {principals[0]} that does not match its manifest: {reason}")


def _iter_principals(signers: Path, signature: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Each line of the list that names the signature's key, as a list of its own, and each principal of it.

    ``ssh-keygen -Y find-principals`` stops at the first line with the key, even if that line is for another namespace.
    """
    key = _read_signing_key(signature)
    lines = [line for line in signers.read_text("utf-8", "surrogateescape").split("\n") if line.strip()]
    named = [line for line in lines if not line.startswith("#") and (key in line or "cert-authority" in line)]
    for number, line in enumerate(named[:_MAX_PRINCIPALS]):
        listed = folder / f"{number}"
        listed.write_text(f"{line}\n", "utf-8", "surrogateescape")
        found = _run_ssh_keygen(["-Y", "find-principals", "-f", str(listed), "-s", str(signature)])
        for principal in _split_principals(found) if not found.returncode else []:
            yield listed, principal


def _read_signing_key(signature: Path) -> str:
    """The public key in a signature, as a list of signers spells it: base64 of the second field of the SSHSIG format.

    An empty text, which every line contains, where the signature has another form; ssh-keygen then decides.
    """
    try:
        lines = signature.read_text("ascii").strip().splitlines()
        blob = base64.b64decode("".join(lines[1:-1]))
        size = int.from_bytes(blob[10:14], "big")
    except ValueError:
        return ""
    return base64.b64encode(blob[14 : 14 + size]).decode().rstrip("=")


def _split_principals(found: subprocess.CompletedProcess[bytes]) -> list[str]:
    return [line.strip() for line in os.fsdecode(found.stdout).splitlines() if line.strip()]


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
