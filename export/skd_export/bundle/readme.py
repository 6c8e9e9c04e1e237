"""The README and the measurements page of a bundle: everything that a person needs who has only this folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skd_bench.bundle.manifest import Artefact, Manifest
from skd_bench.untrusted.text import escape_markdown

_ORT_PRECISIONS = ("fp32", "fp16", "int8", "int8-trt")  # what ONNX Runtime computes right on a CPU, as it is installed
_RUNTIME_TITLES = {
    "openvino": "OpenVINO",
    "ort-cuda": "ONNX Runtime with CUDA",
    "ort-tensorrt": "ONNX Runtime with TensorRT",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}


def format_readme(manifest: Manifest) -> str:
    """The README of a bundle as Markdown, from its manifest only (equal manifests give equal text)."""
    sections = (
        _format_introduction,
        _format_class_table,
        _format_input_section,
        _format_usage_section,
        _format_commands_section,
        _format_file_table,
        _format_limits_section,
        _format_licences_section,
    )
    return "\n\n".join(section(manifest) for section in sections) + "\n"


def _format_introduction(m: Manifest) -> str:
    chosen = m.find_artefact()
    trained = escape_markdown(" → ".join(chosen.path) or chosen.student)
    where = f" on {_RUNTIME_TITLES[chosen.runtime]}" if chosen.runtime in _RUNTIME_TITLES else ""
    author = escape_markdown(m.created_by)
    summary = f"{chosen.precision.upper()}{where}, {_format_file_size(chosen.bytes)}; trained along {trained}"
    return (
        f"# {escape_markdown(m.name)}: a video classifier\n\n"
        f"A network that classifies short clips into {len(m.classes)} classes, written by {author}. "
        f"**Use `{m.default}`** ({summary})."
        "\n\n"
        "This folder contains no programs. `manifest.json` has the information below in machine-readable form, with "
        "the SHA-256 of each file. Measurements, and the devices they were made on, are in `MEASURED.md` and "
        "`measured.json`. They are valid for those devices only, not for yours."
    )


def _format_class_table(m: Manifest) -> str:
    rows = "\n".join(f"| {i} | {escape_markdown(name)} |" for i, name in enumerate(m.classes))
    return f"## Classes\n\nIn the order of the logits:\n\n| index | class |\n|---:|---|\n{rows}"


def _format_input_section(m: Manifest) -> str:
    s, p = m.sampling, m.preprocess
    frames = {
        "uniform": f"the video is divided into {s.frames} parts of equal duration; the middle frame of each is used",
        "dense": f"{s.frames} frames around the middle of the video, {s.stride} frames apart",
    }[s.kind]
    fit = {
        "crop": "scaled to cover this size, then cropped at the centre",
        "stretch": "scaled to this size without preserving the aspect ratio",
        "pad": "scaled to fit inside this size, then padded with the mean colour",
    }[p.fit]
    return (
        "## Input and output\n\n"
        f"- **Frames**: {frames}. Order matters.\n"
        f"- **Pixels**: RGB, {p.height} high and {p.width} wide, {fit}.\n"
        f"{_format_input_values(m)}"
        f"- **Output** `logits`: float32 `(B, {len(m.classes)})`; softmax gives probabilities."
    )


def _format_input_values(m: Manifest) -> str:
    s, p = m.sampling, m.preprocess
    if m.contract == "uint8_frames":
        return f"- **Input** `frames`: uint8 `(B, {s.frames}, {p.height}, {p.width}, 3)`, any batch B, as decoded.\n"
    return (
        f"- **Values**: `(pixel / 255 - mean) / std` with mean {list(p.mean)} and std {list(p.std)}.\n"
        f"- **Input** `clip`: float32 `(B, 3, {s.frames}, {p.height}, {p.width})`, any batch B.\n"
    )


def _format_usage_section(m: Manifest) -> str:
    chosen = m.find_artefact().runtime
    onnx_examples = [*_format_onnxruntime_example(m), *_format_openvino_example(m)]
    litert_examples = [_format_litert_example(m, a.file) for a in m.artefacts if a.runtime == "litert"]
    if chosen == "openvino":
        onnx_examples.reverse()
    examples = [*onnx_examples, *litert_examples, _format_tensorrt_example(m)]
    if chosen.startswith("tensorrt"):
        examples = [examples[-1], *examples[:-1]]
    return "\n\n".join(examples)


def _format_clip_code(m: Manifest) -> str:
    """The lines of an example that create the network's input."""
    s, p = m.sampling, m.preprocess
    frames = f"frames = np.zeros(({s.frames}, {p.height}, {p.width}, 3), np.uint8)  # your clip: RGB, (T, H, W, 3)\n"
    if m.contract != "float_clip":
        return f"{frames}clip = frames[None]  # (1, T, H, W, 3); the file normalises"
    return (
        f"{frames}clip = (frames / 255 - {list(p.mean)}) / {list(p.std)}\n"
        "clip = clip.transpose(3, 0, 1, 2)[None].astype(np.float32)  # (1, 3, T, H, W)"
    )


def _find_example_file(m: Manifest, precisions: tuple[str, ...]) -> str | None:
    """The file for an example: the default where it has one of these precisions, else the first that has."""
    files = [a.file for a in m.artefacts if a.precision in precisions and a.file.endswith(".onnx")]
    return m.default if m.default in files else next(iter(files), None)


def _format_onnxruntime_example(m: Manifest) -> list[str]:
    if (file := _find_example_file(m, _ORT_PRECISIONS)) is None:
        return []
    text = f"""## Use it from Python: ONNX Runtime

Needs only `pip install onnxruntime numpy`. Run it inside this folder:

```python
import json, os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: else it keeps an identifier of your machine, to report
import numpy as np
import onnxruntime as ort

classes = json.load(open("manifest.json", encoding="utf-8"))["classes"]
session = ort.InferenceSession("{file}", providers=["CPUExecutionProvider"])
{_format_clip_code(m)}
logits = session.run(["logits"], {{session.get_inputs()[0].name: clip}})[0][0]
print(classes[logits.argmax()])
```"""
    return [text]


def _format_openvino_example(m: Manifest) -> list[str]:
    if (file := _find_example_file(m, (*_ORT_PRECISIONS, "bf16"))) is None:
        return []
    first = (
        f"`{m.default}` was measured and chosen on this runtime. Run this inside this folder,"
        if m.find_artefact().runtime == "openvino"
        else "The same file runs on OpenVINO,"
    )
    text = f"""## OpenVINO (x86 and Arm CPUs, Intel GPUs)

{first} with `pip install openvino numpy`:

```python
import json, sys
sys.modules["openvino_telemetry"] = None  # before the import, which else reports to Intel
import numpy as np
import openvino as ov

classes = json.load(open("manifest.json", encoding="utf-8"))["classes"]
network = ov.compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
{_format_clip_code(m)}
logits = network(clip)[0][0]
print(classes[logits.argmax()])
```"""
    return [text]


def _format_litert_example(m: Manifest, file: str) -> str:
    return f"""## LiteRT (phones and small Arm boards)

`{file}`, one clip at a time, with `pip install ai-edge-litert numpy`:

```python
import json
import numpy as np
from ai_edge_litert.interpreter import Interpreter

classes = json.load(open("manifest.json", encoding="utf-8"))["classes"]
network = Interpreter("{file}", num_threads=1)
network.allocate_tensors()
{_format_clip_code(m)}
network.set_tensor(network.get_input_details()[0]["index"], clip)
network.invoke()
print(classes[network.get_tensor(network.get_output_details()[0]["index"])[0].argmax()])
```"""


def _format_tensorrt_example(m: Manifest) -> str:
    chosen = m.find_artefact()
    if chosen.runtime.startswith("tensorrt"):
        return _format_chosen_engine(m, chosen)
    source = next((a.file for a in m.artefacts if a.precision == "fp32" and a.runtime != "litert"), None)
    if source is None:
        return "## TensorRT\n\nThis bundle has no FP32 file; engines cannot be built from it."
    engine = f"engines/{source.removesuffix('.onnx')}.tensorrt.engine"
    return f"""## TensorRT

An engine works on one GPU model and one TensorRT version only, so build it on the device, from `{source}`. Install
`skd-edge` and TensorRT there, and run this inside this folder (`--runtime tensorrt-rtx` for TensorRT-RTX):

```
skd-edge build {source} --runtime tensorrt --out ../engines
```

```python
import json
from pathlib import Path
import numpy as np
from skd_bench.runtimes import find_runtime

classes = json.load(open("manifest.json", encoding="utf-8"))["classes"]
session = find_runtime("tensorrt").load(Path("../{engine}"), threads=1)
{_format_clip_code(m)}
logits = session.run(clip)[0]
print(classes[logits.argmax()])
```"""


def _engine_fact(artefact: Artefact, name: str) -> str:
    """What the manifest says about the measured engine of a file; empty where it says nothing."""
    engine = artefact.options.get("engine")
    return escape_markdown(str(engine.get(name, ""))) if isinstance(engine, dict) else ""


def _format_chosen_engine(m: Manifest, chosen: Artefact) -> str:
    built = f"{_engine_fact(chosen, 'version') or '?'} on {_engine_fact(chosen, 'gpu') or '?'}"
    title = _RUNTIME_TITLES[chosen.runtime]
    return f"""## {title}

`{chosen.file}` was measured and chosen as an engine of {title} {built}. An engine works on one GPU model and one
version only, so this folder has the portable file. `skd-edge predict bundle video.mp4` compiles it on the device, with
the options in `manifest.json`, and stores the engine in your cache. From Python, inside this folder:

```python
import json
from pathlib import Path
import numpy as np
from skd_bench.inference.predict import load_artefact
from skd_bench.bundle.manifest import Manifest

manifest = Manifest.load(Path("."))
session = load_artefact(Path("."), manifest.find_artefact(), threads=1)
{_format_clip_code(m)}
print(manifest.classes[session.run(clip)[0].argmax()])
```"""


def _format_commands_section(m: Manifest) -> str:
    return (
        "## Or with skd-edge\n\n"
        "`pip install 'skd-edge[ort]'` installs decoding and benchmarking, without torch. Run these commands in the "
        "folder above this one:\n\n"
        "```\n"
        "skd-edge verify bundle                   # are the files unchanged, and do they give the same answers here?\n"
        "skd-edge predict bundle video.mp4        # the most likely classes of a video, with times\n"
        "skd-edge bench bundle                    # how fast is it on this machine?\n"
        "skd-edge bundle bundle --triton models   # a Triton model repository\n"
        "```"
    )


def _format_file_table(m: Manifest) -> str:
    head = (
        "## Files\n\n| file | precision | runtime | size | agrees with the trained network |\n|---|---|---|---:|---:|\n"
    )
    rows = []
    for a in m.artefacts:
        runtime, size = escape_markdown(a.runtime), _format_file_size(a.bytes)
        rows.append(f"| `{a.file}` | {a.precision} | {runtime} | {size} | {_format_agreement(a)} |")
    explanation = (
        "Agreement is the share of clips for which the file predicts the same class as the network it was exported "
        "from; `manifest.json` has the differences under `parity`. `labels.txt` lists the classes, one per line."
    )
    return head + "\n".join(rows) + f"\n\n{explanation}{_format_sample_outputs_note(m)}"


def _format_agreement(a: Artefact) -> str:
    agreement, n = a.parity.get("agreement"), a.parity.get("n")
    if not isinstance(agreement, int | float):
        return "not compared"
    return f"{100 * agreement:.1f} %" + (f" of {n} clips" if n else "")


def _format_sample_outputs_note(m: Manifest) -> str:
    if not m.samples:
        return ""
    return (
        " `answers.json` has the logits of each file for the clips in `samples/`, from the machine that wrote the "
        "bundle; `skd-edge verify` compares them with those of your machine."
    )


def format_measured_page(m: Manifest) -> str:
    """The measurements of a bundle's files as Markdown; the page is not part of the payload."""
    head = (
        f"# Measurements of {escape_markdown(m.name)}\n\n"
        "This page is not part of the payload whose hashes are in `manifest.json`, because latency differs between "
        "measurements.\n\n"
        "| file | accuracy (95 % interval) | p50 ms | p90 ms | p99 ms | device |\n|---|---:|---:|---:|---:|---|\n"
    )
    rows = []
    for a in m.artefacts:
        times = (_format_milliseconds(a.measured.get(k)) for k in ("p50_ms", "p90_ms", "p99_ms"))
        names = (a.measured.get(k) for k in ("device", "device_name"))
        device = escape_markdown(" ".join(str(name) for name in names if name)) or "–"
        version = _engine_fact(a, "version")  # also says where a double stood for TensorRT
        title = f"{_RUNTIME_TITLES.get(a.runtime, '')} {version}".strip()
        file = f"`{a.file}`" + (f" on {title}" if title else "")
        rows.append(f"| {' | '.join((file, _format_accuracy(a.measured), *times, device))} |")
    return (
        head + "\n".join(rows) + "\n\nAccuracy is that of the file itself on the validation clips, with one view per "
        "clip; the file was chosen on the same clips. Milliseconds are for the network alone, batch 1, single stream, "
        "on the device in the table. Your device gives other numbers: measure there.\n"
    )


def _format_limits_section(m: Manifest) -> str:
    lines = ["The network always predicts one of its classes, also for clips that show none of them."]
    if any(a.precision == "int8" and a.options.get("reduce_range") is False for a in m.artefacts):
        lines.append(
            "The INT8 file has 8-bit weights: on x86 CPUs without VNNI (only AVX2) its sums can saturate, which "
            "changes its predictions. Use the FP32 file there, or export again with a reduced range."
        )
    if any(a.precision == "int8" for a in m.artefacts):
        lines.append(
            "INT8 predictions also depend on the runtime's optimisation level; the default level (all) was measured."
        )
    if any(a.precision == "bf16" for a in m.artefacts):
        lines.append(
            "The BF16 file is for OpenVINO on a CPU with bfloat16 arithmetic (x86: AVX512-BF16 or AMX-BF16), and for "
            "TensorRT on GPUs from SM80 on; other CPUs would compute it in FP32."
        )
    if any(a.precision == "fp8" for a in m.artefacts):
        lines.append("The FP8 file is for TensorRT on GPUs from SM89 on.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _format_licences_section(m: Manifest) -> str:
    rows = [f"- {escape_markdown(subject)}: {escape_markdown(text)}" for subject, text in m.licences.items()] or [
        "- not stated"
    ]
    samples = f"\n\n`samples/` holds {len(m.samples)} clips under the data's licence." if m.samples else ""
    return "## Licences, as the recipe states them\n\n" + "\n".join(rows) + samples


def _format_accuracy(measured: Mapping[str, Any]) -> str:
    accuracy, interval = measured.get("accuracy"), measured.get("interval")
    if not isinstance(accuracy, int | float):
        return "–"
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return f"{100 * accuracy:.1f} %"
    return f"{100 * accuracy:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _format_milliseconds(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "n/a"


def _format_file_size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
