"""INT8 files of ours against NNCF's of the same FP32 file, on OpenVINO: milliseconds in turns, and the logits.

NNCF is no dependency. Install it elsewhere, and name that Python:

    python -m venv /tmp/nncf && /tmp/nncf/bin/pip install nncf openvino onnx
    python -m bench.suites.export.int8_against_nncf --python /tmp/nncf/bin/python

Networks have random weights with calibrated batch norms, 8x112x112, one thread. Each query of one file is followed by a
query of the other; the ratio is that of the medians, with its 95 % interval. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skd_bench.runtimes.openvino import OpenVinoSession
from skd_bench.stats import ratio_of_medians
from skd_edge.models.builder import build_network
from skd_edge.models.substages import LogitsOnly
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings
from skd_export.graph.onnx_export import export_onnx
from skd_export.quantization.calibration import CalibrationRanges
from skd_export.quantization.quantize import quantize_for_ort

NETWORKS = {
    "ResNet-32, temporal convolutions": NetworkSpec(name="n", family="resnet", width=32, temporal="conv"),
    "ResNet-32, shift": NetworkSpec(name="n", family="resnet", width=32, temporal="shift"),
    "mobile-24, temporal convolutions": NetworkSpec(name="n", family="mobile", width=24, temporal="conv"),
    "EfficientNet-Lite0": NetworkSpec(name="n", family="efficientnet-lite0"),
}
CLIP = ClipSettings(frames=8, size=112)
_BLOCKS = 10  # of queries one after the other: the interval is that of their medians
CLASSES = [f"class {i}" for i in range(10)]
NNCF = """
import sys
import nncf, numpy as np, openvino as ov
source, clips, target = sys.argv[1:]
model = ov.Core().read_model(source)
model.reshape([1, *np.load(clips).shape[1:]])
quantised = nncf.quantize(model, nncf.Dataset([c[None] for c in np.load(clips)]))
ov.save_model(quantised, target, compress_to_fp16=False)
"""


class IrSession:
    """NNCF's file, compiled as `OpenVinoSession` compiles ONNX files."""

    def __init__(self, path: Path) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": 1,
        }
        core = openvino.Core()
        self.request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def run(self, clip: np.ndarray) -> np.ndarray:
        """The logits of one clip."""
        return self.request.infer([clip])[0].copy()


def make_clips(count: int, seed: int) -> np.ndarray:
    """Coarse noise, float32 ``(count, 3, 8, 112, 112)``: unlike fine noise it survives the strides of a network."""
    coarse = np.random.default_rng(seed).standard_normal((count, 3, 8, 14, 14), dtype=np.float32)
    return 1.3 * coarse.repeat(8, 3).repeat(8, 4)


def make_network(spec: NetworkSpec) -> nn.Module:
    network = build_network(spec, classes=len(CLASSES), clip=CLIP, seed=0, names=tuple(CLASSES))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        network.train()(torch.from_numpy(make_clips(4, 0)))
    return LogitsOnly(network).eval()


def compare(spec: NetworkSpec, python: str, folder: Path, queries: int) -> str:
    """One row of the table."""
    fp32, int8, ir, clips = (folder / name for name in ("fp32.onnx", "int8.onnx", "nncf.xml", "clips.npy"))
    export_onnx(make_network(spec), fp32, clip_shape=(CLIP.frames, CLIP.size, CLIP.size), classes=CLASSES)
    np.save(clips, make_clips(16, 1))
    quantize_for_ort(CalibrationRanges(fp32, [np.load(clips)]), int8)
    done = subprocess.run([python, "-c", NNCF, fp32, clips, ir], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"NNCF failed: {done.stderr[-2000:]}")
    sessions = {"ours": OpenVinoSession(int8, 1), "nncf": IrSession(ir)}
    held_out = make_clips(64, 2)
    full = OpenVinoSession(fp32, 1)
    reference = np.concatenate([full.run(clip[None]) for clip in held_out])
    errors, milliseconds = {}, {name: [] for name in sessions}
    for name, session in sessions.items():
        logits = np.concatenate([session.run(np.ascontiguousarray(clip[None])) for clip in held_out])
        errors[name] = np.abs(logits - reference).mean() / reference.std()
    clip = np.ascontiguousarray(held_out[:1])
    for _ in range(queries):
        for name, session in sessions.items():
            begin = time.perf_counter()
            session.run(clip)
            milliseconds[name].append(1000 * (time.perf_counter() - begin))
    blocks = [np.array_split(milliseconds[name], _BLOCKS) for name in sessions]
    ratio = ratio_of_medians(*blocks)
    p50 = {name: float(np.median(values)) for name, values in milliseconds.items()}
    return (
        f"{p50['ours']:.2f} | {p50['nncf']:.2f} | {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) | "
        f"{errors['ours']:.3f} | {errors['nncf']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="a Python that has nncf and openvino")
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | ours, ms | NNCF, ms | ratio (95 %) | error of ours | of NNCF |\n|---|---:|---:|---|---:|---:|")
    for title, spec in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {title} | {compare(spec, options.python, Path(folder), options.queries)} |", flush=True)


if __name__ == "__main__":
    main()
