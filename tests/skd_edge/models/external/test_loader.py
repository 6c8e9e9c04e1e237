"""External teachers as a recipe describes them: classes, clips and the hash of their files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_edge.models.external.loader import adapt_external, unwrap_adapter, weights_fingerprint
from skd_edge.recipe.schema import Teacher, TeacherClip
from skd_edge.recipe.sections import ClipSettings

CLIP = ClipSettings(frames=4, size=16)


def test_a_wrong_number_of_classes_is_refused(make_adapter):
    with pytest.raises(UserError, match=r"has 5 classes, but the dataset has 10; .*teacher.arguments"):
        make_adapter(classes=10)
    assert make_adapter(classes=10, arguments={"classes": 10}).classes == 10


def test_the_clips_of_the_teacher_are_those_of_the_recipe_changed_by_teacher_clip(make_adapter):
    plain = make_adapter()
    assert plain.expected_clip == CLIP
    assert unwrap_adapter(plain) is plain.network
    changed = make_adapter(clip=TeacherClip(size=24, mean=(0.5, 0.5, 0.5)))
    assert changed.expected_clip == CLIP.model_copy(update={"size": 24, "mean": (0.5, 0.5, 0.5)})
    assert changed(torch.zeros(2, 3, 4, 16, 16)).logits.shape == (2, 5)


def test_any_other_network_is_not_unwrapped():
    network = nn.Linear(2, 2)
    assert unwrap_adapter(network) is network


def test_the_class_list_of_a_trained_factory_is_matched_by_name(make_adapter, make_teacher):
    names = ("a", "b", "c", "d", "e")
    plain, matched = make_adapter(trained=True), make_teacher(trained=True, classes=names)
    net = adapt_external(matched, classes=2, clip=CLIP, seed=0, names=("D", "b")).eval()
    clip = torch.rand(2, 3, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(clip).logits, plain(clip).logits[:, [3, 1]])
    with pytest.raises(UserError, match="has 5 logits, but its class list has 2 names"):
        adapt_external(make_teacher(trained=True, classes=("a", "b")), classes=2, clip=CLIP, seed=0)


def test_the_hash_of_a_teachers_files_depends_on_their_bytes(tmp_path, make_teacher):
    assert weights_fingerprint(Teacher()) is None
    assert weights_fingerprint(make_teacher()) is None  # see factory_weights_fingerprint
    for key, others in (("logits", {}), ("pretrained", {"torchvision": "r3d_18"})):
        path = tmp_path / key
        spec = Teacher(**{key: path}, **others)
        with pytest.raises(UserError, match=rf"teacher\.{key}: cannot read .*: No such file"):
            weights_fingerprint(spec)
        path.write_bytes(b"one")
        one = weights_fingerprint(spec)
        path.write_bytes(b"two")
        assert len({one, weights_fingerprint(spec), None}) == 3
