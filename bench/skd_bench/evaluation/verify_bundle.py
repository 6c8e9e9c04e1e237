"""Everything `skd-edge verify` looks at, in the order in which trust is earned: signer, hashes, answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skd_bench.bundle.archive import opened
from skd_bench.bundle.manifest import MANIFEST, MEASURED, Manifest, files_of
from skd_bench.bundle.signing import SIGNATURE, signer
from skd_bench.bundle.verify import verify
from skd_bench.evaluation.replay import Rechecked, recheck
from skd_bench.files import sha256_file

_BESIDE = frozenset({MANIFEST, MEASURED, "MEASURED.md", SIGNATURE})


@dataclass(frozen=True)
class Examined:
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
    answers: list[Rechecked]
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same by name."""
        return asdict(self) | {"ok": not self.problems}

    def to_text(self) -> str:
        """A few lines for people."""
        if self.signer:
            who = f", signed by {self.signer}"
        else:
            who = ", with a signature that was not checked (--signers FILE)" if self.signed else ""
        lines = [f"{self.bundle}: ok (payload sha256 {self.payload[:16]}{who})"]
        lines += [f"  {answer.to_text()}" for answer in self.answers]
        lines += [f"  not of the bundle: {name}" for name in self.strays]
        return "\n".join(lines)


def examine(bundle: Path | str, *, signers: Path | None = None, run: bool = True) -> Examined:
    """Check a bundle.

    Args:
        bundle: Its folder, or a zip of it.
        signers: Who is trusted (`signing.signer`); None: nobody is asked for.
        run: Whether its files are run on its sample clips, where it has some; never before all else is in order.

    Raises:
        UserError: It is no bundle, or not signed by one of `signers`.
    """
    with opened(bundle) as folder:
        manifest = Manifest.load(folder)
        who = signer(folder, signers) if signers else None
        problems = verify(folder)
        answers = recheck(folder) if run and not problems else []
        known = files_of(manifest).keys() | _BESIDE
        inside = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
        return Examined(
            bundle=str(bundle),
            payload=sha256_file(folder / MANIFEST),
            signer=who,
            signed=(folder / SIGNATURE).is_file(),
            strays=[name for name in inside if name not in known],
            answers=answers,
            problems=problems + [problem for answer in answers if (problem := answer.problem)],
        )
