"""Networks and teachers in a recipe: what identifies them in a job's hash, and which settings go together."""

from __future__ import annotations

from skd_edge.recipe.networks import NetworkSpec, Teacher


def test_only_a_causal_network_has_causal_in_its_architecture():
    for kind in (NetworkSpec, Teacher):
        plain = kind(name="n")
        assert "causal" not in plain.architecture
        assert kind(name="n", causal=True).architecture == plain.architecture | {"causal": True}
