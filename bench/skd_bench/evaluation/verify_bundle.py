"""Everything `skd-edge verify` looks at, in the order in which trust is earned: signer, hashes, answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skd_bench.bundle.archive import open_bundle
from skd_bench.bundle.manifest import MANIFEST_FILE, MEASURED_FILE, Manifest, list_payload_files
from skd_bench.bundle.signing import SIGNATURE_FILE, verify_signature
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.evaluation.replay import ReplayResult, replay_samples
from skd_bench.files import sha256_file

_UNLISTED_FILES = frozenset({MANIFEST_FILE, MEASURED_FILE, "MEASURED.md", SIGNATURE_FILE})


@dataclass(frozen=True)
class VerificationReport:
    """What was found about a bundle.

    Attributes:
        bundle: As given.
        payload: SHA-256 of the manifest, which holds the hash of every other file: it names the payload.
        signer: Who signed it; None where nobody was asked for.
        signed: Whether there is a signature, checked or not.
        strays: Files that the manifest does not know; no part of the bundle.
        answers: Each file on the sample clips; empty without such clips, or where it was not asked for.
        problems: One sentence each; empty: the bundle is as it was made.
    """

    bundle: str
    payload: str
    signer: str | None
    signed: bool
    strays: list[str]
    answers: list[ReplayResult]
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same by name."""
        return asdict(self) | {"ok": not self.problems}

    def to_text(self) -> str:
        """A few lines for people."""
        if self.signer:
            signature_text = f", signed by {self.signer}"
        else:
            signature_text = ", with a signature that was not checked (--signers FILE)" if self.signed else ""
        lines = [f"{self.bundle}: ok (payload sha256 {self.payload[:16]}{signature_text})"]
        lines += [f"  {answer.to_text()}" for answer in self.answers]
        lines += [f"  not of the bundle: {name}" for name in self.strays]
        return "\n".join(lines)


def verify_bundle(bundle: Path | str, *, signers: Path | None = None, run: bool = True) -> VerificationReport:
    """Check a bundle.

    Args:
        bundle: Its folder, or a zip of it.
        signers: Who is trusted (`signing.signer`); None: nobody is asked for.
        run: Whether its files are run on its sample clips, where it has some; never before all else is in order.

    Raises:
        UserError: It is no bundle, or not signed by one of `signers`.
    """
    with open_bundle(bundle) as folder:
        manifest = Manifest.load(folder)
        signed_by = verify_signature(folder, signers) if signers else None
        problems = find_bundle_problems(folder)
        answers = replay_samples(folder) if run and not problems else []
        known_files = list_payload_files(manifest).keys() | _UNLISTED_FILES
        inside = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
        return VerificationReport(
            bundle=str(bundle),
            payload=sha256_file(folder / MANIFEST_FILE),
            signer=signed_by,
            signed=(folder / SIGNATURE_FILE).is_file(),
            strays=[name for name in inside if name not in known_files],
            answers=answers,
            problems=problems + [problem for answer in answers if (problem := answer.problem)],
        )
