"""Runs a bundle's files on its sample clips and compares the logits with those recorded when the bundle was made.

``answers.json`` holds the logits of each file on each sample clip, computed with decoding and preprocessing. If they
differ, the cause is this machine: another decoder, another runtime, or saturating arithmetic (INT8 on x86 without
VNNI).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skd_bench.bundle.manifest import Artefact, Manifest, resolve_bundle_path
from skd_bench.errors import UserError
from skd_bench.inference.predict import load_artefact
from skd_bench.runtimes import why_runtime_unavailable
from skd_bench.untrusted.json_file import read_json
from skd_bench.untrusted.text import escape_name
from skd_bench.video.clip import decode_clip, normalise

ANSWERS_FILE = "answers.json"
# Bound on the largest difference, relative to the largest logit. Wider than the bounds of the parity check after an
# export, because decoders may round a pixel differently.
LOGIT_BOUNDS = {"fp32": 1e-3, "fp16": 1e-2}
_DEFAULT_BOUND = 5e-2
_MAX_BYTES = 32 * 2**20
SampleLogits = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class ReplayResult:
    """Result of one file on the sample clips.

    Attributes:
        file: File of the artefact.
        clips: Number of compared clips; 0 if the file was skipped.
        relative: Largest absolute difference of a logit, divided by the largest recorded logit.
        flips: Number of clips whose top class changed.
        bound: Largest accepted value of `relative`.
        skipped: Why the file was not run, or None.
    """

    file: str
    clips: int = 0
    relative: float = 0.0
    flips: int = 0
    bound: float = 0.0
    skipped: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the file must not be used on this machine, or None."""
        if self.skipped or self.relative <= self.bound:
            return None
        return (
            f"{self.file} gives other outputs here than where the bundle was made: logits differ by "
            f"{self.relative:.1e} of the largest, more than {self.bound:.0e}, and {self.flips} of {self.clips} sample "
            "clips change their class; compare decoder, runtime and CPU with the machine of the export"
        )

    def to_text(self) -> str:
        """The result in one line."""
        if self.skipped:
            return f"{escape_name(self.file)}: not run: {escape_name(self.skipped)}"
        return f"{escape_name(self.file)}: {self.clips} sample clips, logits within {self.relative:.1e} of the largest"


def compute_sample_logits(bundle: Path, manifest: Manifest) -> SampleLogits:
    """Compute the logits of each file that can run here on each sample clip.

    Returns:
        Logits (C,) with six significant digits, by file of the artefact and file of the sample clip.

    Raises:
        UserError: A sample clip or a model file cannot be read.
    """
    return {
        a.file: {name: [float(f"{x:.6g}") for x in row] for name, row in _compute_logits(bundle, manifest, a).items()}
        for a in manifest.artefacts
        if why_runtime_unavailable(a.runtime, a.precision) is None
    }


def replay_samples(bundle: Path | str, manifest: Manifest | None = None) -> list[ReplayResult]:
    """Run every file of a bundle on its sample clips and compare the logits with the recorded ones.

    The hashes should have been checked before (`skd_bench.bundle.verify`).

    Args:
        bundle: The bundle's folder.
        manifest: Its manifest, where that was read already; None: it is read now.

    Returns:
        A result for each artefact; empty for a bundle without recorded logits.

    Raises:
        UserError: The recorded logits are malformed, or a sample clip or a model file cannot be read.
    """
    bundle = Path(bundle)
    manifest = manifest or Manifest.load(bundle)
    if ANSWERS_FILE not in manifest.documents:
        return []
    try:
        recorded: SampleLogits = read_json(resolve_bundle_path(bundle, ANSWERS_FILE), max_bytes=_MAX_BYTES)
        return [_compare_with_recorded(bundle, manifest, a, recorded.get(a.file, {})) for a in manifest.artefacts]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{bundle / ANSWERS_FILE} cannot be read as logits ({error}); copy the bundle again") from error


def _compare_with_recorded(
    bundle: Path, manifest: Manifest, artefact: Artefact, recorded: dict[str, list[float]]
) -> ReplayResult:
    if reason := why_runtime_unavailable(artefact.runtime, artefact.precision):
        return ReplayResult(artefact.file, skipped=reason)
    if not recorded:
        return ReplayResult(artefact.file, skipped="its outputs were not recorded when the bundle was made")
    computed = _compute_logits(bundle, manifest, artefact)
    names = sorted(recorded.keys() & computed.keys())
    expected = np.array([recorded[name] for name in names], np.float64)
    actual = np.array([computed[name] for name in names], np.float64)
    if expected.shape != actual.shape or not names:
        raise ValueError(f"recorded logits have shape {expected.shape}, computed logits {actual.shape}")
    relative = float(np.abs(actual - expected).max()) / (float(np.abs(expected).max()) or 1.0)
    flips = int((actual.argmax(1) != expected.argmax(1)).sum())
    return ReplayResult(
        artefact.file, len(names), relative, flips, LOGIT_BOUNDS.get(artefact.precision, _DEFAULT_BOUND)
    )


def _compute_logits(bundle: Path, manifest: Manifest, artefact: Artefact) -> dict[str, npt.NDArray[np.float32]]:
    session = load_artefact(bundle, artefact, threads=1)
    try:
        logits = {}
        for sample in manifest.samples:
            path = resolve_bundle_path(bundle, sample.file)
            clip = decode_clip(path, manifest.sampling, manifest.preprocess)[np.newaxis]
            x = clip if session.input.dtype == "uint8" else normalise(clip, manifest.preprocess)
            logits[sample.file] = session.run(x)[0]
        return logits
    finally:
        session.close()
