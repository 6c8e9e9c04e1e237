"""All checks of `skd-edge verify`, in this order: signer, hashes, engines, outputs on the sample clips."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skd_bench.bundle.archive import open_bundle
from skd_bench.bundle.manifest import read_manifest_file
from skd_bench.bundle.signing import verify_signature
from skd_bench.bundle.verify import SIGNATURE_FILE, find_bundle_problems, find_stray_files
from skd_bench.evaluation.engine_checks import find_engine_problems
from skd_bench.evaluation.replay import ReplayResult, replay_samples
from skd_bench.untrusted.text import escape_name

_MAX_LISTED = 20  # stray files in the text; the JSON has them all


@dataclass(frozen=True)
class VerificationReport:
    """Result of the checks of a bundle.

    Attributes:
        bundle: The bundle, as given.
        payload: SHA-256 of the manifest. The manifest contains all other hashes, so this identifies the payload.
        signer: The principal that signed the bundle; None if the signature was not checked.
        signed: Whether the bundle has a signature, checked or not.
        strays: Files that are not listed in the manifest and so are not part of the bundle.
        answers: Result of each model file on the sample clips; empty without sample clips, or if they were not run.
        problems: One sentence for each problem; empty: the bundle is unchanged.
    """

    bundle: str
    payload: str
    signer: str | None
    signed: bool
    strays: list[str]
    answers: list[ReplayResult]
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """The attributes by name, and `ok`: whether there are no problems."""
        return asdict(self) | {"ok": not self.problems}

    def to_text(self) -> str:
        """The result as a few lines of text, for a bundle without problems."""
        if self.signer:
            signature_text = f", signed by {escape_name(self.signer)}"
        else:
            signature_text = ", with a signature that was not checked (--signers FILE)" if self.signed else ""
        lines = [f"{escape_name(self.bundle)}: ok (payload sha256 {self.payload[:16]}{signature_text})"]
        lines += [f"  {answer.to_text()}" for answer in self.answers]
        if self.strays:
            lines.append("  WARNING: these files are not part of the bundle, so nothing vouches for them (--strict):")
            lines += [f"    {escape_name(name)}" for name in self.strays[:_MAX_LISTED]]
            more = len(self.strays) - _MAX_LISTED
            lines += [f"    and {more} more"] if more > 0 else []
        return "\n".join(lines)


def verify_bundle(
    bundle: Path | str, *, signers: Path | None = None, run: bool = True, strict: bool = False
) -> VerificationReport:
    """Check a bundle. Its manifest is read once, so that no check sees another one.

    Args:
        bundle: The bundle's folder, or a zip file of it.
        signers: File with the accepted signers (see `verify_signature`); None: the signature is not checked.
        run: Whether to run the model files on the sample clips. They are never run if another check fails.
        strict: Whether a file that the manifest does not list is a problem.

    Raises:
        UserError: The file or folder is not a bundle, or is not signed by one of `signers`.
    """
    with open_bundle(bundle) as folder:
        read = read_manifest_file(folder)
        signed_by = verify_signature(folder, signers, read.content) if signers else None
        problems, strays = find_bundle_problems(folder, read.manifest), find_stray_files(folder, read.manifest)
        problems += [f"{name} is not part of the bundle: its manifest does not list it" for name in strays if strict]
        problems = problems or find_engine_problems(folder, read.manifest)
        answers = replay_samples(folder, read.manifest) if run and not problems else []
        return VerificationReport(
            bundle=str(bundle),
            payload=read.sha256,
            signer=signed_by,
            signed=(folder / SIGNATURE_FILE).is_file(),
            strays=strays,
            answers=answers,
            problems=problems + [problem for answer in answers if (problem := answer.problem)],
        )
