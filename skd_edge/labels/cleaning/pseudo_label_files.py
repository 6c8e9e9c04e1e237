"""Pseudo-labels on disk, beside the job that estimated them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.files import write_atomic
from skd_edge.labels.cleaning.pseudo_labels import Evidence, PseudoLabels


def write_pseudo_labels(path: Path, pseudo: PseudoLabels) -> None:
    """Keep pseudo-labels and what they were estimated from, every number as it is."""
    arrays: dict[str, Any] = {"noise_rate": np.float64(pseudo.noise_rate), "why": np.asarray(pseudo.why, str)}
    arrays |= {name: getattr(pseudo, name) for name in ("targets", "wrong", "weak")}
    if pseudo.evidence is not None:
        arrays |= {name: getattr(pseudo.evidence, name) for name in ("class_probabilities", "p_wrong", "alternative")}
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, memory.getvalue())


def read_pseudo_labels(path: Path) -> PseudoLabels | None:
    """What was kept there; None where nothing was, or where it cannot be read: then it is estimated again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            evidence = (
                Evidence(arrays["class_probabilities"], arrays["p_wrong"], arrays["alternative"])
                if "p_wrong" in arrays
                else None
            )
            rate = float(arrays["noise_rate"])
            return PseudoLabels(arrays["targets"], arrays["wrong"], arrays["weak"], arrays["why"], rate, evidence)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
