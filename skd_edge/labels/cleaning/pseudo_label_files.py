"""Reads and writes the file of a job's pseudo-labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.integrity.checked_files import DamagedFileError, read_checked, report_damage, write_checked
from skd_edge.labels.cleaning.pseudo_labels import Evidence, PseudoLabels


def write_pseudo_labels(path: Path, pseudo: PseudoLabels) -> None:
    """Write pseudo-labels and their evidence as compressed arrays with a checksum, without loss of precision.

    Args:
        path: the file; its folder is created if it does not exist.
        pseudo: the pseudo-labels.
    """
    arrays: dict[str, Any] = {"noise_rate": np.float64(pseudo.noise_rate), "why": np.asarray(pseudo.why, str)}
    arrays |= {name: getattr(pseudo, name) for name in ("targets", "wrong", "weak")}
    if pseudo.evidence is not None:
        arrays |= {name: getattr(pseudo.evidence, name) for name in ("class_probabilities", "p_wrong", "alternative")}
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)
    write_checked(path, memory.getvalue())


def read_pseudo_labels(path: Path) -> PseudoLabels | None:
    """Read pseudo-labels; None if the file does not exist or is damaged, so that the caller estimates them again.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        content = read_checked(path)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        report_damage(error, "the pseudo-labels are estimated again")
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        evidence = (
            Evidence(arrays["class_probabilities"], arrays["p_wrong"], arrays["alternative"])
            if "p_wrong" in arrays
            else None
        )
        rate = float(arrays["noise_rate"])
        return PseudoLabels(arrays["targets"], arrays["wrong"], arrays["weak"], arrays["why"], rate, evidence)
