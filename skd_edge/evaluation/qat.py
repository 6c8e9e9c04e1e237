"""Where quantising a student costs too much: it goes on for a few epochs, rounded as its INT8 file, still taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from skd_edge.evaluation.evaluator import Scale
from skd_edge.execution.job_graph import Node
from skd_edge.execution.local_executor import LocalEngine
from skd_edge.models.builder import Built
from skd_export.exporter import facts

_SLOWER = 0.1  # of the leg's rate: the weights only have to move to where rounding hurts less


def cannot_be_quantised(int8: Path) -> bool:
    """Whether an INT8 file is outside its bounds, also with its costliest layers in FP32."""
    known = facts(int8)
    return bool(known["tried"]) and not known["excluded"]


def rounded_node(node: Node, epochs: int, bits: int) -> Node:
    """The leg that goes on from a student's: same teacher, labels and losses, all substages at once."""
    training = node.leg.training.model_copy(update={"rate": _SLOWER * node.leg.training.rate, "prefix": 0.0})
    leg = replace(node.leg, start=node.hash, epochs=epochs, training=training, rounded=bits, weak=False)
    return replace(node, leg=leg, start=node)


def fine_tuned(scale: Scale, engine: LocalEngine, node: Node, network: Built, int8: Path) -> Path:
    """The INT8 file of the student after quantisation-aware training; the old one where that is refused as well.

    Args:
        scale: Exports and judges.
        engine: Trains; a leg that is trained already is found again.
        node: The student's finished leg.
        network: Its network, in evaluation mode: what the new file is compared with.
        int8: Its file, which is outside its bounds.
    """
    epochs, bits = scale.recipe.export.qat_epochs, 7 if facts(int8)["reduce_range"] else 8
    after = rounded_node(node, epochs, bits)
    scale.say(f"{node.leg.name}: INT8 is outside its bounds ({facts(int8)['tried'][0]}); {epochs} epochs of QAT")
    engine.report = lambda node, row: None
    engine.train(after)
    made = scale.export(engine.network(after), after.hash, ("int8",), judge=network)["int8"]
    saved = not cannot_be_quantised(made)
    end = "within its bounds" if saved else "still outside its bounds: " + facts(made)["tried"][0]
    scale.warnings.append(
        f"{node.leg.name}: INT8 needed quantisation-aware training ({epochs} epochs, leg {after.hash}); it is {end}."
    )
    return made if saved else int8
