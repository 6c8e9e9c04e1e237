"""Bundles on disk: content, atomic replacement, refused arguments."""

import json
import re

import av
import numpy as np
import pytest

from skd_bench.bundle.manifest import SCHEMA, Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_export.bundle.readme import format_readme
from skd_export.bundle.writer import ModelFile
from skd_export.quantization.quantize import quantize_for_ort


def write_film(path, count=8):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(count):
            pixels = np.full((32, 32, 3), 30 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def read_files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "home" / "secret person.MP4"
    path.parent.mkdir()
    write_film(path)
    path.chmod(0o755)
    return path


def test_a_whole_bundle_with_both_precisions_and_a_sample(
    write, fp32, batches, video, tmp_path, measured, cascade_path
):
    facts = quantize_for_ort(fp32, tmp_path / "q.onnx", batches(), reduce_range=False)
    models = [
        ModelFile(tmp_path / "q.onnx", "int8", "wide", cascade_path, options={"reduce_range": facts["reduce_range"]}),
        ModelFile(fp32, "fp32", "wide", cascade_path, measured=measured),
    ]
    bundle = write(tmp_path / "bundle", fp32, models=models, samples=[(video, "left")])
    assert set(read_files(bundle)) == {
        *("README.md", "manifest.json", "labels.txt", "answers.json", "measured.json", "MEASURED.md"),
        *("wide.int8.onnx", "wide.fp32.onnx", "samples/000-left.mp4"),
    }
    assert find_bundle_problems(bundle) == []
    manifest = Manifest.load(bundle)
    assert manifest.default == "wide.int8.onnx"
    assert manifest.find_artefact("wide.fp32.onnx").bytes == fp32.stat().st_size
    assert not any(p.stat().st_mode & 0o111 for p in bundle.rglob("*") if p.is_file())
    assert "without VNNI" in (bundle / "README.md").read_text()
    assert not any(b"secret" in data or str(tmp_path).encode() in data for data in read_files(bundle).values())


def test_writing_twice_gives_equal_bytes(write, fp32, tmp_path):
    first, second = write(tmp_path / "a", fp32), write(tmp_path / "b", fp32)
    assert read_files(first) == read_files(second)


def test_a_bundle_is_replaced_and_no_temporary_folder_is_left(write, fp32, tmp_path):
    write(tmp_path / "b", fp32, name="old")
    (tmp_path / "b" / "manifest.json.sig").write_bytes(b"of the old one")
    write(tmp_path / "b", fp32, name="new")
    assert Manifest.load(tmp_path / "b").name == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert find_bundle_problems(tmp_path / "b") == []
    assert "manifest.json.sig" not in read_files(tmp_path / "b")


@pytest.mark.parametrize("name", ["wide.int8.onnx", "thesis.tex", "notes/a.txt", ".git/config"])
def test_a_bundle_that_holds_a_file_of_the_user_is_not_replaced(write, fp32, tmp_path, name):
    bundle = write(tmp_path / "b", fp32)
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"mine")
    before = read_files(bundle)
    with pytest.raises(UserError, match=f"'{re.escape(name)}' in it is no file of the bundle; choose another folder"):
        write(bundle, fp32)
    assert read_files(bundle) == before
    write(bundle, fp32, own_files=[name])
    assert not (bundle / name).exists()


def test_a_file_that_the_user_adds_while_a_bundle_is_written_is_not_removed(write, fp32, tmp_path, monkeypatch):
    bundle = write(tmp_path / "b", fp32)

    def format_slowly(manifest):
        (bundle / "thesis.tex").write_bytes(b"mine")
        return format_readme(manifest)

    monkeypatch.setattr("skd_export.bundle.writer.format_readme", format_slowly)
    with pytest.raises(UserError, match=r"/b would be replaced, but 'thesis\.tex' in it is no file of the bundle"):
        write(bundle, fp32, name="new")
    assert (bundle / "thesis.tex").read_bytes() == b"mine"
    assert Manifest.load(bundle).name == "motion"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_appears_while_a_bundle_is_written_is_not_replaced(write, fp32, tmp_path, monkeypatch, kind):
    target = write(tmp_path / "other", fp32)

    def format_slowly(manifest):
        (tmp_path / "b").symlink_to(target) if kind == "link" else (tmp_path / "b").write_bytes(b"mine")
        return format_readme(manifest)

    monkeypatch.setattr("skd_export.bundle.writer.format_readme", format_slowly)
    with pytest.raises(UserError, match="/b already exists and is not a bundle"):
        write(tmp_path / "b", fp32)
    assert (tmp_path / "b").is_symlink() == (kind == "link")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "other"]


@pytest.mark.parametrize("manifest", ['{"name": "an extension", "manifest_version": 3}', "[]", "", "{"])
def test_a_folder_with_a_manifest_of_others_is_not_replaced(write, fp32, tmp_path, manifest):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="already exists and is not a bundle"):
        write(tmp_path / "app", fp32)
    assert (tmp_path / "app" / "manifest.json").read_text() == manifest
    write(tmp_path / "app", fp32, own_files=["manifest.json"])  # the caller knows that it wrote it
    assert find_bundle_problems(tmp_path / "app") == []


def test_a_link_is_not_replaced(write, fp32, tmp_path):
    (tmp_path / "link").symlink_to(write(tmp_path / "b", fp32))
    with pytest.raises(UserError, match="already exists and is not a bundle"):
        write(tmp_path / "link", fp32)
    bundle = write(tmp_path / "c", fp32)
    (bundle / "samples").symlink_to(tmp_path / "b")
    with pytest.raises(UserError, match="'samples' in it is no file of the bundle"):
        write(bundle, fp32)


def test_a_folder_that_is_not_a_bundle_is_not_replaced(write, fp32, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"")
    for taken in ("photos", "file"):
        with pytest.raises(UserError, match="already exists and is not a bundle"):
            write(tmp_path / taken, fp32)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_after_a_failure_the_old_bundle_is_unchanged_and_no_files_are_left(write, fp32, tmp_path):
    write(tmp_path / "b", fp32)
    before = read_files(tmp_path / "b")
    with pytest.raises(UserError, match=r"cannot copy .*gone.mp4"):
        write(tmp_path / "b", fp32, name="new", samples=[(tmp_path / "gone.mp4", "left")])
    assert read_files(tmp_path / "b") == before
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
def test_contradicting_arguments_are_refused(write, fp32, tmp_path, more, words):
    with pytest.raises(UserError, match=words):
        write(tmp_path / "b", fp32, **more)
    assert not list(tmp_path.iterdir())


def test_two_models_with_one_name_and_a_sample_of_an_unknown_class_are_refused(
    write, fp32, video, tmp_path, cascade_path
):
    with pytest.raises(UserError, match=r"two files.*wide.fp32.onnx"):
        write(tmp_path / "b", fp32, models=[ModelFile(fp32, "fp32", "wide", cascade_path)] * 2)
    with pytest.raises(UserError, match="'jump'"):
        write(tmp_path / "b", fp32, samples=[(video, "jump")])


def test_names_with_path_separators_become_plain_names(write, fp32, tmp_path, cascade_path):
    bundle = write(tmp_path / "b", fp32, models=[ModelFile(fp32, "fp32", "../../wide net", cascade_path)])
    assert Manifest.load(bundle).default == "_.._wide_net.fp32.onnx"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_measurements_do_not_change_the_payload(write, fp32, video, tmp_path, measured, cascade_path):
    slow = measured | {"p50_ms": 99.0, "device": "elsewhere"}
    made = [
        write(
            tmp_path / name,
            fp32,
            models=[ModelFile(fp32, "fp32", "wide", cascade_path, measured=m)],
            samples=[(video, "up")],
        )
        for name, m in (("a", measured), ("b", slow), ("c", {}))
    ]
    first, *others = [read_files(folder) for folder in made]
    for other in others:
        assert {n for n in first if first[n] != other.get(n)} == {"measured.json", "MEASURED.md"}
    assert [Manifest.load(folder).find_artefact().measured for folder in made] == [measured, slow, {}]


def test_measurements_of_another_file_are_ignored(write, fp32, tmp_path):
    bundle = write(tmp_path / "b", fp32)
    path = bundle / "measured.json"
    path.write_text(path.read_text().replace(Manifest.load(bundle).find_artefact().sha256, "0" * 64))
    assert Manifest.load(bundle).find_artefact().measured == {}
    for broken in ("[]", "{", '{"wide.fp32.onnx": 3}', '{"wide.fp32.onnx": {"sha256": [], "measured": {}}}'):
        path.write_text(broken)
        with pytest.raises(UserError, match="holds measurements only"):
            Manifest.load(bundle)


def test_manifest_is_readable_json(write, fp32, tmp_path, class_names):
    data = json.loads((write(tmp_path / "b", fp32) / "manifest.json").read_text())
    assert data["schema"] == SCHEMA
    assert data["contract"] == "float_clip"
    assert "measured" not in data["artefacts"][0]
    assert (tmp_path / "b" / "labels.txt").read_text().split() == class_names
