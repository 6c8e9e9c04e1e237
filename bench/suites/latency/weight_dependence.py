"""Does latency depend on weights? A file with random weights against files of the same network that learned.

    python -m bench.suites.latency.weight_dependence

A run drops candidates over the budget by the milliseconds of their files with random weights, so these must be the
milliseconds of the trained ones. For each network and precision four files are measured side by side, in turns, in the
same fresh processes: random weights of two seeds (the control of the control), trained weights, and weights all zero
(arithmetic on zeros must not be faster). Writes bench/results/weights.json; measuring_page.py puts it into
docs/measuring.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bench.suites.fixtures import motions, preprocess, trained
from skd_bench.benchmark.latency import Target, measure_latency
from skd_bench.device.info import device_card, device_id, device_state
from skd_bench.files import write_json
from skd_bench.stats import ratio_of_medians
from skd_bench.video.clip import normalise
from skd_edge.data.sources.synthetic import CLASSES
from skd_edge.models.substages import Deployed
from skd_edge.models.tsm import build
from skd_edge.recipe.schema import Network
from skd_export.exporter import Quantising, make_artefacts

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench/results/weights.json"
NETWORKS = {  # (frames, size) of the clip beside each
    "mobile, width 10": (Network(name="a", width=10), 8, 24),
    "mobile, width 8": (Network(name="b", width=8), 8, 40),
    "resnet, width 16": (Network(name="c", family="resnet", width=16), 8, 24),
}
PRECISIONS = ("fp32", "int8")
RUNTIMES = ("ort", "openvino")
EPOCHS, CLIPS, WITHIN = 4, 320, 0.05
Json = dict[str, Any]


def weights(spec: Network, frames: int, size: int) -> dict[str, Deployed]:
    """The same network with four kinds of weights, in evaluation mode."""

    def random(seed: int) -> Deployed:
        return Deployed(build(spec, classes=len(CLASSES), frames=frames, size=size, seed=seed)).eval()

    clips, labels = motions(CLIPS, 0, frames=frames, size=size, difficulty=0.0)
    zero = random(0)
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.zero_()
    learned = trained(spec, clips, labels, epochs=EPOCHS)
    return {"random": random(0), "other random": random(1), "trained": learned, "zero": zero}


def targets(title: str, spec: Network, frames: int, size: int, folder: Path) -> Iterable[Target]:
    """Every kind of weights, at every precision, on every runtime."""
    calibration, _ = motions(64, 10**5, frames=frames, size=size, difficulty=0.0)
    for kind, network in weights(spec, frames, size).items():
        precisions = PRECISIONS if kind != "zero" else ("fp32",)  # nothing to calibrate
        quantising = Quantising(lambda: [normalise(calibration, preprocess(size))], key=kind, refuse=lambda *_: None)
        made = make_artefacts(network, precisions, folder / title / kind, clip_shape=(frames, size, size),
                              classes=[str(c) for c in CLASSES], quantising=quantising)  # fmt: skip
        for precision, path in made.items():
            yield from (Target(f"{title}|{precision}|{runtime}|{kind}", path, runtime) for runtime in RUNTIMES)


def main() -> None:
    """Export, measure side by side, compare with random weights, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--queries", type=int, default=240)
    options = parser.parse_args()
    card, rows = device_card(), list[Json]()
    with tempfile.TemporaryDirectory() as folder:
        for title, (spec, frames, size) in NETWORKS.items():
            these = list(targets(title, spec, frames, size, Path(folder)))
            found = measure_latency(these, threads=1, processes=options.processes, queries=options.queries,
                                    memory=False)  # fmt: skip
            for target in these:
                name, precision, runtime, kind = target.name.split("|")
                base = found[f"{name}|{precision}|{runtime}|random"].samples_ms
                if kind == "random" or (ratio := ratio_of_medians(found[target.name].samples_ms, base)) is None:
                    continue
                rows.append({"network": name, "precision": precision, "runtime": runtime, "weights": kind,
                             "ratio": ratio.value, "interval": [ratio.low, ratio.high]})  # fmt: skip
                print(f"{target.name}: {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of random", flush=True)
    inside = sum(abs(row["ratio"] - 1) <= WITHIN for row in rows)
    print(f"{inside} of {len(rows)} within {WITHIN:.0%}")
    write_json(RESULTS, {"rows": rows, "processes": options.processes, "queries": options.queries, "within": WITHIN,
                         "device": card, "device_id": device_id(card), "after": device_state()})  # fmt: skip


if __name__ == "__main__":
    main()
