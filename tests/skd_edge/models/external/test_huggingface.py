"""Models of transformers: a small one is built and saved here, and loaded again with the real loading code."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.models.external.loader import adapt_external, weights_fingerprint
from skd_edge.models.external.torchvision_timm import import_torchvision
from skd_edge.recipe.schema import Teacher
from skd_edge.recipe.sections import ClipSettings

CLIP, NAMES = ClipSettings(frames=4, size=32), ("wave", "run", "Jump high", "sit")
SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def clips(count=3, clip=CLIP):
    return torch.randn(count, 3, clip.frames, clip.size, clip.size, generator=torch.Generator().manual_seed(0))


def hub_config(kind, **more):
    if importlib.util.find_spec("torchvision"):
        import_torchvision("torchvision")
    transformers = pytest.importorskip("transformers")
    if kind == "vjepa2":
        return transformers.VJEPA2Config(
            crop_size=32,
            patch_size=16,
            frames_per_clip=4,
            tubelet_size=2,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2.0,
            pred_hidden_size=16,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
            num_pooler_layers=1,
            **more,
        )
    config, extra = {
        "videomae": ("VideoMAEConfig", {"patch_size": 16, "tubelet_size": 2, "decoder_num_hidden_layers": 1}),
        "timesformer": ("TimesformerConfig", {"patch_size": 16}),
        "vivit": ("VivitConfig", {"tubelet_size": [2, 16, 16]}),
    }[kind]
    return getattr(transformers, config)(image_size=32, num_frames=4, **extra, **SMALL, **more)


def saved(folder, kind="videomae", **more):
    from transformers import AutoModelForVideoClassification

    torch.manual_seed(3)
    network = AutoModelForVideoClassification.from_config(hub_config(kind, **more)).eval()
    for parameter in network.parameters():  # weights that start at zero or one would hide a mistake
        torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "vjepa2"])
@torch.no_grad()
def test_a_hub_model_gives_the_same_logits_after_saving_and_loading(kind, tmp_path):
    network = saved(tmp_path, kind, num_labels=4) if hub_config(kind) else None
    net = adapt_external(Teacher(hub=str(tmp_path), trained=True), classes=4, clip=CLIP, seed=0, names=NAMES).eval()
    seen = {}
    last = net.substages[-1]
    handle = network.get_submodule(last).register_forward_hook(lambda m, i, o: seen.update(out=o))
    x = clips()
    expected = network(x.transpose(1, 2)).logits
    handle.remove()
    output = net(x)
    assert torch.allclose(output.logits, expected, atol=1e-5)
    steps = 4 if kind == "timesformer" else 2
    assert [tuple(f.shape) for f in output.features] == [(3, steps, 16)] * 4
    tokens = seen["out"][0] if isinstance(seen["out"], tuple) else seen["out"]
    tokens = tokens[:, tokens.shape[1] % 4 :]  # without the class token; 4 positions at each time step
    order = (
        tokens.unflatten(1, (4, steps)).mean(1) if kind == "timesformer" else tokens.unflatten(1, (steps, 4)).mean(2)
    )
    assert torch.allclose(output.features[-1], order, atol=1e-5)


@torch.no_grad()
def test_timesformer_tokens_have_time_as_the_inner_axis(tmp_path):
    """A change of the last frame must change the last time step only."""
    hub_config("timesformer")
    saved(tmp_path, "timesformer")
    spec = Teacher(hub=str(tmp_path), substages=("timesformer.embeddings",))
    net, one = adapt_external(spec, classes=4, clip=CLIP, seed=0).eval(), clips(1)
    other = one.clone()
    other[:, :, 3] += 1.0
    moved = (net(one).features[0] - net(other).features[0]).abs().amax((0, 2))
    assert moved[3] > 0.01
    assert moved[:3].max() < 1e-5


def test_a_hub_teacher_that_is_trained_here_gets_a_head_from_the_seed(tmp_path):
    hub_config("videomae")
    saved(tmp_path, num_labels=7)
    spec = Teacher(hub=str(tmp_path))
    one, two = (adapt_external(spec, classes=4, clip=CLIP, seed=s).network.state_dict() for s in (1, 2))
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"classifier.weight"}
    assert one["classifier.weight"].shape[0] == 4
    assert adapt_external(spec, classes=None, clip=CLIP, seed=1).classes == 7


def test_classes_of_a_trained_hub_teacher_are_matched_by_name_or_refused(tmp_path):
    hub_config("videomae")
    labels = ["sit", "jump_high", "fall", "wave", "run"]
    network = saved(tmp_path, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    spec = Teacher(hub=str(tmp_path), trained=True)
    net = adapt_external(spec, classes=4, clip=CLIP, seed=0, names=NAMES).eval()
    x = clips()
    with torch.no_grad():
        assert torch.allclose(net(x).logits, network(x.transpose(1, 2)).logits[:, [3, 4, 1, 0]], atol=1e-5)
    with pytest.raises(UserError, match=r"does not have 1 of the dataset's 2 classes \(swim\); it has sit, jump_high"):
        adapt_external(spec, classes=2, clip=CLIP, seed=0, names=("sit", "swim"))
    own = spec.model_copy(update={"classes": ("swim", "sit", "a", "b", "c")})
    assert adapt_external(own, classes=2, clip=CLIP, seed=0, names=("sit", "swim")).columns.tolist() == [1, 0]
    with pytest.raises(UserError, match="has 5 logits, but its class list has 2 names"):
        adapt_external(spec.model_copy(update={"classes": ("a", "b")}), classes=2, clip=CLIP, seed=0, names=("a", "b"))


def test_the_clips_of_a_hub_teacher_are_read_from_its_processor(tmp_path):
    hub_config("videomae")
    saved(tmp_path, num_labels=4)
    vivit = {"do_rescale": True, "rescale_factor": 1 / 127.5, "offset": True, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(vivit))
    clip = ClipSettings(frames=8, size=24)
    net = adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=clip, seed=0)
    pixels = torch.rand(2, 3, 8, 24, 24)
    seen = net.clip_converter((pixels - 0.45) / 0.225)
    assert seen.shape == (2, 3, 4, 32, 32)
    assert torch.allclose(seen.mean(), (2 * pixels[:, :, ::2] - 1).mean(), atol=0.02)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("preprocessor_config.json", '{"image_mean": "x", "image_std": 3}'),
        ("preprocessor_config.json", '{"image_mean": [0, 0, 0], "image_std": [0, 0, 0]}'),
        ("preprocessor_config.json", '{"rescale_factor": null}'),
        ("config.json", "[1, 2]"),
        ("config.json", '{"model_type": ["videomae"]}'),
        ("config.json", '{"model_type": "videomae", "num_hidden_layers": "two"}'),
        ("config.json", '{"model_type": "videomae", "image_size": -5, "num_frames": 0}'),
    ],
)
def test_a_folder_with_other_values_is_refused_in_one_line(tmp_path, file, text):
    hub_config("videomae")
    saved(tmp_path, num_labels=4)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=r"teacher\.hub "):
        adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=CLIP, seed=0)


def test_only_safetensors_are_read_and_no_code_is_run(tmp_path):
    hub_config("videomae")
    network = saved(tmp_path, num_labels=4)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot be loaded.*safetensors"):
        adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=CLIP, seed=0)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Net"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"no config\.json that transformers can read"):
        adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=CLIP, seed=0)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="this folder does not exist"):
        adapt_external(Teacher(hub=str(tmp_path / "gone")), classes=4, clip=CLIP, seed=0)


def test_a_pretraining_checkpoint_is_not_accepted_as_a_trained_classifier(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.VideoMAEForPreTraining(hub_config("videomae")).save_pretrained(tmp_path)
    adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=CLIP, seed=0)
    with pytest.raises(UserError, match=r"lacks \d+ of its weights .*remove 'trained'"):
        adapt_external(Teacher(hub=str(tmp_path), trained=True), classes=4, clip=CLIP, seed=0)


def test_the_hash_of_a_folder_depends_on_its_model_files(tmp_path):
    hub_config("videomae")
    saved(tmp_path, num_labels=4)
    spec = Teacher(hub=str(tmp_path))
    one = weights_fingerprint(spec)
    (tmp_path / "notes.txt").write_text("not read")
    assert weights_fingerprint(spec) == one
    saved(tmp_path, num_labels=5)
    assert weights_fingerprint(spec) != one
