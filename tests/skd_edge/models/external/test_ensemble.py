"""An ensemble of two networks of the built-in families, with their weights in files."""

from __future__ import annotations

import torch

from skd_edge.models.builder import build_network
from skd_edge.models.external.ensemble import Ensemble
from skd_edge.models.substages import SubstageOutput
from skd_edge.recipe.schema import SingleTeacher, Teacher
from skd_edge.recipe.sections import ClipSettings

CLIP = ClipSettings(frames=4, size=32)


def clips(count=3, clip=CLIP):
    return torch.randn(count, 3, clip.frames, clip.size, clip.size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_an_ensemble_gives_mean_logits_and_the_features_of_its_first_member(tmp_path):
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
        output = build_network(teacher, classes=4, clip=CLIP, seed=7).eval()(x)
        assert torch.allclose(output.logits, expected, atol=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(output.features, one.features, strict=True))
    assert build_network(teacher, classes=4, clip=CLIP, seed=7)(x, 2).logits is None


@torch.no_grad()
def test_mean_probabilities_are_finite_for_very_confident_members():
    class Confident(torch.nn.Module):
        widths = (3,)

        def __init__(self, logits):
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, clip, upto=None):
            return SubstageOutput([], self.logits.expand(len(clip), -1) if upto is None else None)

    members = [Confident([200.0, 0.0]), Confident([0.0, 200.0])]
    output = Ensemble(members, "probabilities")(clips(2))
    assert torch.allclose(output.logits.softmax(1), torch.full((2, 2), 0.5))
    assert torch.isfinite(output.logits).all()
