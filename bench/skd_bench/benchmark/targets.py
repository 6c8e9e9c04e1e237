"""What a bench measures: each file of a bundle on its runtime, on others that are asked for, and engines beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.benchmark.latency import Target
from skd_bench.bundle.manifest import Artefact, Manifest, resolve
from skd_bench.errors import UserError
from skd_bench.inference.predict import check_fits, load_artefact
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import Session, missing, runtime
from skd_bench.runtimes.base import Staged
from skd_bench.runtimes.tensorrt.engine_file import read_note

_REPEATS = 30


@dataclass(frozen=True)
class Row:
    """One file on one runtime.

    Attributes:
        target: What is measured; its name is the file's, with the runtime behind it where that is not the file's own.
        about: `file`, `default`, `student`, `path`, `precision`, `runtime`, `bytes`.
        claimed: The manifest's own numbers; empty for another runtime than they are of.
        facts: What the loaded session says of itself.
    """

    target: Target
    about: dict[str, Any]
    claimed: dict[str, Any]
    facts: dict[str, object]

    def to_json(self) -> dict[str, Any]:
        """The row before anything was measured."""
        return {"name": self.target.name, **self.about, "facts": self.facts, "claimed": self.claimed}

    @contextmanager
    def session(self, threads: int) -> Iterator[Session]:
        """The file, loaded on its runtime, and closed again."""
        session = runtime(self.target.runtime).load(Path(self.target.path), threads=threads)
        try:
            yield session
        finally:
            session.close()

    def split(self, threads: int) -> dict[str, Any]:
        """Median milliseconds of one query's parts, in a process that is not fresh: where the time goes, not how much.

        Returns:
            `to_device_ms`, `compute_ms`, `from_device_ms` (transfers are None where the runtime reads the clip where it
            lies), and `post_ms`: from logits to the five best classes.
        """
        with self.session(threads) as session:
            x = random_clip(session)
            parts = [_parts(session, x) for _ in range(_REPEATS)][_REPEATS // 3 :]
        return {key: None if parts[0][key] is None else float(np.median([p[key] for p in parts])) for key in parts[0]}


def rows_of(
    bundle: Path, manifest: Manifest, runtimes: Sequence[str], engines: Sequence[Path], threads: int
) -> tuple[list[Row], list[dict[str, str]]]:
    """Every row that can be measured here, and for each that cannot `name`, `runtime` and `reason`.

    The bundle's default must run on the runtime it is for; what is asked beside it need not, nor must a file whose
    runtime is missing here.

    Raises:
        UserError: A file of the bundle cannot be run here.
    """
    here, not_run = [], []
    for a in manifest.artefacts:
        reason = None if a.file == manifest.default else missing(a.runtime)
        if reason is None:
            here.append(a)
        else:
            not_run.append({"name": a.file, "runtime": a.runtime, "reason": reason})
    rows = [_own(bundle, manifest, a, threads) for a in here]
    asked: list[tuple[Path, str, Artefact | None]] = [
        (resolve(bundle, a.file), name, a) for a in manifest.artefacts for name in runtimes if name != a.runtime
    ]
    asked += [(path, name, None) for path in engines for name in _engine_runtimes(path)]
    for path, name, artefact in asked:
        try:
            rows.append(_other(manifest, path, name, artefact, threads))
        except UserError as error:
            title = artefact.file if artefact else path.name
            not_run.append({"name": f"{title} @ {name}", "runtime": name, "reason": str(error)})
    return rows, not_run


def _own(bundle: Path, manifest: Manifest, artefact: Artefact, threads: int) -> Row:
    session = load_artefact(bundle, artefact, threads=threads)
    try:
        check_fits(manifest, session)
        facts = session.facts()
    finally:
        session.close()
    target = Target(artefact.file, resolve(bundle, artefact.file), artefact.runtime)
    return Row(target, _about(artefact, manifest), artefact.measured, facts)


def _about(artefact: Artefact, manifest: Manifest) -> dict[str, Any]:
    known = {key: getattr(artefact, key) for key in ("student", "path", "precision", "runtime", "bytes")}
    return {"file": artefact.file, "default": artefact.file == manifest.default, **known}


def _other(manifest: Manifest, path: Path, name: str, artefact: Artefact | None, threads: int) -> Row:
    """A file of the bundle on another runtime, or an engine."""
    if artefact is not None:
        runtime(name)  # what is missing here is told first
        if name.startswith("tensorrt"):
            raise UserError(f"{name} runs engines, not ONNX files: skd-edge build BUNDLE, then bench --engine FILE")
        if path.suffix == ".tflite" or name == "litert":
            raise UserError(f"{name} does not take {path.name}: LiteRT runs .tflite files, every other runtime ONNX")
        about = _about(artefact, manifest) | {"default": False, "runtime": name}
    else:
        about = {"file": path.name, "default": False, "student": "", "path": [], "precision": "engine", "runtime": name}
    row = Row(Target(f"{about['file']} @ {name}", path, name), about, {}, {})
    with row.session(threads) as session:
        check_fits(manifest, session)
        return Row(row.target, about | {"bytes": path.stat().st_size}, {}, session.facts())


def _engine_runtimes(path: Path) -> list[str]:
    """With CUDA graphs, and without."""
    name = read_note(path).runtime
    return [name, f"{name}-nograph"]


def random_clip(session: Session) -> npt.NDArray[Any]:
    """One clip (the batch of the file, where that is fixed) of noise, as the network takes it."""
    shape, rng = [n or 1 for n in session.input.shape], np.random.default_rng(0)
    if session.input.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32).astype(session.input.dtype, copy=False)


def _parts(session: Session, x: npt.NDArray[Any]) -> dict[str, float | None]:
    parts: dict[str, float | None] = {"to_device_ms": None, "compute_ms": 0.0, "from_device_ms": None}
    begin = time.perf_counter()
    logits = session.run(x)
    parts["compute_ms"] = 1000 * (time.perf_counter() - begin)
    if isinstance(session, Staged):
        parts |= session.stages(x)
    begin = time.perf_counter()
    np.argsort(-softmax(logits)[0], kind="stable")[:5]
    return parts | {"post_ms": 1000 * (time.perf_counter() - begin)}
