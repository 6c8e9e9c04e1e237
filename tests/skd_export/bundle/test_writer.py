import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.runtimes import registered_runtimes
from skd_bench.runtimes.cuda import why_cuda_unavailable
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules
from skd_bench.video.types import Preprocessing, Sampling
from skd_export.bundle.writer import ModelFile, write_bundle
from skd_export.quantization.quantize import quantize_for_ort
from skd_export.targets.triton import write_triton_repository

CLASSES = ["left", "right", "up", "down", "still"]
MEASURED = {
    "accuracy": 0.871,
    "interval": [0.83, 0.9],
    "p50_ms": 1.234,
    "p90_ms": 1.5,
    "p99_ms": None,
    "device": "ab12",
}
PATH = ["teacher", "assistant", "wide"]


def write(folder, fp32, **more):
    fields = {
        "name": "motion",
        "classes": CLASSES,
        "sampling": Sampling(4),
        "preprocess": Preprocessing(16, 16, "crop", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        "models": [ModelFile(fp32, "fp32", "wide", PATH, parity={"agreement": 1.0}, measured=MEASURED)],
        "licences": {"data": "CC-BY-4.0", "weights": "Apache-2.0"},
        "created_by": "skd-edge 0.1.0",
    }
    return write_bundle(folder, **(fields | more))


def film(path, count=8):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(count):
            pixels = np.full((32, 32, 3), 30 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "home" / "secret person.MP4"
    path.parent.mkdir()
    film(path)
    path.chmod(0o755)
    return path


def test_a_whole_bundle_with_both_precisions_and_a_sample(fp32, batches, video, tmp_path):
    facts = quantize_for_ort(fp32, tmp_path / "q.onnx", batches(), reduce_range=False)
    models = [
        ModelFile(tmp_path / "q.onnx", "int8", "wide", PATH, options={"reduce_range": facts["reduce_range"]}),
        ModelFile(fp32, "fp32", "wide", PATH, measured=MEASURED),
    ]
    bundle = write(tmp_path / "bundle", fp32, models=models, samples=[(video, "left")])
    assert set(contents(bundle)) == {
        *("README.md", "manifest.json", "labels.txt", "answers.json", "measured.json", "MEASURED.md"),
        *("wide.int8.onnx", "wide.fp32.onnx", "samples/000-left.mp4"),
    }
    assert find_bundle_problems(bundle) == []
    manifest = Manifest.load(bundle)
    assert manifest.default == "wide.int8.onnx"
    assert manifest.find_artefact("wide.fp32.onnx").bytes == fp32.stat().st_size
    assert not any(p.stat().st_mode & 0o111 for p in bundle.rglob("*") if p.is_file())
    assert "without VNNI" in (bundle / "README.md").read_text()
    assert not any(b"secret" in data or str(tmp_path).encode() in data for data in contents(bundle).values())


def test_written_twice_gives_equal_bytes(fp32, tmp_path):
    first, second = write(tmp_path / "a", fp32), write(tmp_path / "b", fp32)
    assert contents(first) == contents(second)


def test_a_bundle_is_replaced_and_nothing_is_left_beside_it(fp32, tmp_path):
    write(tmp_path / "b", fp32, name="old")
    (tmp_path / "b" / "wide.int8.onnx").write_bytes(b"of the old one")
    write(tmp_path / "b", fp32, name="new")
    assert Manifest.load(tmp_path / "b").name == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert find_bundle_problems(tmp_path / "b") == []
    assert "wide.int8.onnx" not in contents(tmp_path / "b")


def test_what_is_no_bundle_is_left_alone(fp32, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"")
    for taken in ("photos", "file"):
        with pytest.raises(UserError, match="no bundle of ours"):
            write(tmp_path / taken, fp32)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_failure_half_way_leaves_the_old_bundle_and_no_rubbish(fp32, tmp_path):
    write(tmp_path / "b", fp32)
    before = contents(tmp_path / "b")
    with pytest.raises(UserError, match=r"cannot copy .*gone.mp4"):
        write(tmp_path / "b", fp32, name="new", samples=[(tmp_path / "gone.mp4", "left")])
    assert contents(tmp_path / "b") == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"models": []}, "at least one model"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"provenance": {"loss": float("nan")}}, "JSON"),
        ({"provenance": {"what": {1, 2}}}, "JSON"),
    ],
)
def test_contradictions_are_refused(fp32, tmp_path, more, words):
    with pytest.raises(UserError, match=words):
        write(tmp_path / "b", fp32, **more)
    assert not list(tmp_path.iterdir())


def test_two_models_of_one_name_and_samples_of_no_class(fp32, video, tmp_path):
    with pytest.raises(UserError, match=r"two files.*wide.fp32.onnx"):
        write(tmp_path / "b", fp32, models=[ModelFile(fp32, "fp32", "wide", PATH)] * 2)
    with pytest.raises(UserError, match="'jump'"):
        write(tmp_path / "b", fp32, samples=[(video, "jump")])


def test_names_that_climb_become_plain_ones(fp32, tmp_path):
    bundle = write(tmp_path / "b", fp32, models=[ModelFile(fp32, "fp32", "../../wide net", PATH)])
    assert Manifest.load(bundle).default == "_.._wide_net.fp32.onnx"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_readme_says_what_matters(fp32, tmp_path):
    text = (write(tmp_path / "b", fp32) / "README.md").read_text()
    for words in (
        *("# motion", "5 classes", "| 4 | still |", "(B, 3, 4, 16, 16)", "[0.45, 0.45, 0.45]", "teacher → assistant"),
        *("| fp32 | ort |", "| 100.0 % |", "data: CC-BY-4.0", "weights: Apache-2.0"),
    ):
        assert words in text
    assert str(tmp_path) not in text
    measured = (tmp_path / "b" / "MEASURED.md").read_text()
    assert "| 87.1 % (83.0 to 90.0) | 1.23 | 1.50 | n/a | ab12 |" in measured


def test_what_is_measured_changes_no_byte_of_the_payload(fp32, video, tmp_path):
    slow = MEASURED | {"p50_ms": 99.0, "device": "elsewhere"}
    made = [
        write(
            tmp_path / name, fp32, models=[ModelFile(fp32, "fp32", "wide", PATH, measured=m)], samples=[(video, "up")]
        )
        for name, m in (("a", MEASURED), ("b", slow), ("c", {}))
    ]
    first, *others = [contents(folder) for folder in made]
    for other in others:
        assert {n for n in first if first[n] != other.get(n)} == {"measured.json", "MEASURED.md"}
    assert [Manifest.load(folder).find_artefact().measured for folder in made] == [MEASURED, slow, {}]


def test_measurements_of_another_file_are_not_believed(fp32, tmp_path):
    bundle = write(tmp_path / "b", fp32)
    path = bundle / "measured.json"
    path.write_text(path.read_text().replace(Manifest.load(bundle).find_artefact().sha256, "0" * 64))
    assert Manifest.load(bundle).find_artefact().measured == {}
    for broken in ("[]", "{", '{"wide.fp32.onnx": 3}', '{"wide.fp32.onnx": {"sha256": [], "measured": {}}}'):
        path.write_text(broken)
        with pytest.raises(UserError, match="holds measurements only"):
            Manifest.load(bundle)


def test_readme_is_not_bent_by_class_names(fp32, tmp_path):
    bundle = write(tmp_path / "b", fp32, classes=["a|b", "c\n\n# d", "<script>", "`x`", "é 走"])
    text = (bundle / "README.md").read_text()
    assert "| 0 | a\\|b |" in text
    assert "| 1 | c # d |" in text
    assert "<script>" not in text
    assert "| 4 | é 走 |" in text
    assert Manifest.load(bundle).classes[1] == "c\n\n# d"


def examples(bundle):
    """The README's Python examples by the module they are about."""
    blocks = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.S)
    wanted = ("onnxruntime", "openvino", "skd_bench")
    found = {name: block for name in wanted for block in blocks if name in block}
    assert len(found) == len(blocks) == len(wanted)
    return found


def test_readme_example_runs_as_it_stands(fp32, tmp_path):
    bundle = write(tmp_path / "b", fp32)
    example = examples(bundle)["onnxruntime"]
    done = subprocess.run([sys.executable, "-I", "-c", example], cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in CLASSES
    assert len(example.strip().splitlines()) <= 12


def test_readme_example_of_openvino_runs_as_it_stands(fp32, tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    model = ModelFile(fp32, "fp32", "wide", PATH, measured=MEASURED, runtime="openvino")
    bundle = write(tmp_path / "b", fp32, models=[model])
    readme = (bundle / "README.md").read_text()
    assert "(FP32 on OpenVINO, " in readme
    assert readme.index("## OpenVINO") < readme.index("## Use it from Python: ONNX Runtime")
    assert "`wide.fp32.onnx` was measured and chosen on this runtime" in readme
    assert "`wide.fp32.onnx` on OpenVINO" in (bundle / "MEASURED.md").read_text()
    words = [sys.executable, "-I", "-c", examples(bundle)["openvino"]]
    done = subprocess.run(words, cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in CLASSES


def test_a_file_for_litert_stands_beside_and_its_readme_example_runs(fp32, tmp_path):
    if reason := registered_runtimes()["litert"].why_unavailable():
        pytest.skip(f"not installed is litert here: {reason}")
    write_tflite = runpy.run_path(str(Path(__file__).parents[2] / "skd_bench" / "tiny_tflite.py"))["linear_tflite"]
    rng, shape = np.random.default_rng(0), (3, 4, 16, 16)
    weights, bias = rng.normal(size=(3 * 4 * 16 * 16, 5)).astype(np.float32), np.zeros(5, np.float32)
    tflite = write_tflite(tmp_path / "fp32.tflite", weights, bias, shape, 1)
    models = [ModelFile(fp32, "fp32", "wide", PATH), ModelFile(tflite, "fp32", "wide", PATH, runtime="litert")]
    bundle = write(tmp_path / "b", fp32, models=models)
    assert [a.file for a in Manifest.load(bundle).artefacts] == ["wide.fp32.onnx", "wide.fp32.tflite"]
    [example] = [
        b for b in re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.S) if "litert" in b
    ]
    words = [sys.executable, "-I", "-c", example]
    done = subprocess.run(words, cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in CLASSES
    assert write_triton_repository(bundle, tmp_path / "models") == ["wide_fp32"]


@pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")
def test_readme_example_of_tensorrt_builds_and_is_refused_without_a_gpu(fp32, tmp_path):
    if find_installed_modules(FLAVOURS["tensorrt-rtx"]) is None:
        pytest.skip("TensorRT-RTX does not install on this machine")
    bundle = write(tmp_path / "b", fp32)
    text = (bundle / "README.md").read_text()
    [command] = re.findall(r"^skd-edge (build .*)$", text, re.M)
    words = command.replace("--runtime tensorrt ", "--runtime tensorrt-rtx --sm 86 ").split()
    example = examples(bundle)["skd_bench"].replace(".tensorrt.engine", ".tensorrt-rtx.sm86.engine")
    code = f"from skd_edge.cli.main import run\nassert run({words!r}) == 0\n" + example.replace(
        '"tensorrt"', '"tensorrt-rtx"'
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=False)
    assert "built, not run" in done.stdout, done.stderr
    assert "UserError" in done.stderr.splitlines()[-1]
    assert "cannot be used" in done.stderr.splitlines()[-1]
    assert (tmp_path / "engines").is_dir()
    assert find_bundle_problems(bundle) == []


def test_manifest_is_readable_json_of_schema_1(fp32, tmp_path):
    data = json.loads((write(tmp_path / "b", fp32) / "manifest.json").read_text())
    assert data["schema"] == 1
    assert data["contract"] == "float_clip"
    assert "measured" not in data["artefacts"][0]
    assert (tmp_path / "b" / "labels.txt").read_text().split() == CLASSES
