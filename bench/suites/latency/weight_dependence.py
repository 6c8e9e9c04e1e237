"""Does latency depend on the weights? Compares files of the same network with random, trained and zero weights.

    python -m bench.suites.latency.weight_dependence

A run removes candidates that are over the latency budget before training, by the latency of their files with random
weights. This is valid only if trained weights give the same latency. For each network and precision, four files are
measured alternately in the same fresh processes: random weights of two seeds (the second one shows the variation
without any effect), trained weights, and zero weights (arithmetic on zeros must not be faster). Writes
bench/results/weights.json; measuring_page.py puts it into docs/measuring.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bench.suites.fixtures import make_preprocess, render_motions, train_network
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.device.info import device_id, read_device_info, read_device_state
from skd_bench.files import write_json
from skd_bench.stats import ratio_of_medians
from skd_bench.video.clip import normalise
from skd_edge.data.sources.synthetic import MOTION_CLASSES
from skd_edge.models.substages import LogitsOnly
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec
from skd_export.exporter import QuantizationConfig, make_artefacts

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench/results/weights.json"
NETWORKS = {  # specification, frames and size of the clip
    "mobile, width 10": (NetworkSpec(name="a", width=10), 8, 24),
    "mobile, width 8": (NetworkSpec(name="b", width=8), 8, 40),
    "resnet, width 16": (NetworkSpec(name="c", family="resnet", width=16), 8, 24),
}
PRECISIONS = ("fp32", "int8")
RUNTIMES = ("ort", "openvino")
EPOCHS, CLIPS, WITHIN = 4, 320, 0.05
Json = dict[str, Any]


def make_networks(spec: NetworkSpec, frames: int, size: int) -> dict[str, LogitsOnly]:
    """The same network with four kinds of weights, in eval mode."""

    def random(seed: int) -> LogitsOnly:
        return LogitsOnly(build_tsm(spec, classes=len(MOTION_CLASSES), frames=frames, size=size, seed=seed)).eval()

    clips, labels = render_motions(CLIPS, 0, frames=frames, size=size, difficulty=0.0)
    zero = random(0)
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.zero_()
    learned = train_network(spec, clips, labels, epochs=EPOCHS)
    return {"random": random(0), "other random": random(1), "trained": learned, "zero": zero}


def targets(title: str, spec: NetworkSpec, frames: int, size: int, folder: Path) -> Iterable[LatencyTarget]:
    """One target for each kind of weights, precision and runtime; zero weights in FP32 only."""
    calibration, _ = render_motions(64, 10**5, frames=frames, size=size, difficulty=0.0)
    for kind, network in make_networks(spec, frames, size).items():
        precisions = PRECISIONS if kind != "zero" else ("fp32",)  # all activations are zero: there are no ranges
        quantising = QuantizationConfig(
            lambda: [normalise(calibration, make_preprocess(size))], key=kind, find_violation=lambda *_: None
        )
        paths = make_artefacts(
            network,
            precisions,
            folder / title / kind,
            clip_shape=(frames, size, size),
            classes=[str(c) for c in MOTION_CLASSES],
            quantization=quantising,
        )
        for precision, path in paths.items():
            yield from (LatencyTarget(f"{title}|{precision}|{runtime}|{kind}", path, runtime) for runtime in RUNTIMES)


def main() -> None:
    """Export and measure all files, compare them with random weights, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--queries", type=int, default=240)
    options = parser.parse_args()
    device_info, rows = read_device_info(), list[Json]()
    with tempfile.TemporaryDirectory() as folder:
        for title, (spec, frames, size) in NETWORKS.items():
            variants = list(targets(title, spec, frames, size, Path(folder)))
            found = measure_latency(
                variants, MeasurementSettings(processes=options.processes, queries=options.queries), memory=False
            )
            for target in variants:
                name, precision, runtime, kind = target.name.split("|")
                base = found[f"{name}|{precision}|{runtime}|random"].samples_ms
                if kind == "random" or (ratio := ratio_of_medians(found[target.name].samples_ms, base)) is None:
                    continue
                rows.append(
                    {
                        "network": name,
                        "precision": precision,
                        "runtime": runtime,
                        "weights": kind,
                        "ratio": ratio.value,
                        "interval": [ratio.low, ratio.high],
                    }
                )
                print(f"{target.name}: {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of random", flush=True)
    inside = sum(abs(row["ratio"] - 1) <= WITHIN for row in rows)
    print(f"{inside} of {len(rows)} within {WITHIN:.0%}")
    write_json(
        RESULTS,
        {
            "rows": rows,
            "processes": options.processes,
            "queries": options.queries,
            "within": WITHIN,
            "device": device_info,
            "device_id": device_id(device_info),
            "after": read_device_state(),
        },
    )


if __name__ == "__main__":
    main()
