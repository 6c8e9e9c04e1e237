"""Stage 3: list, decode and label the clips."""

from __future__ import annotations

from skd_edge.data.store.copies import describe_copies
from skd_edge.labels.audit.label_report import describe_annotators
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.pipeline.context import RunContext
from skd_edge.recipe.schema import Recipe


def prepare_data(ctx: RunContext, recipe: Recipe) -> TrainingData:
    """Decode the clips (only once; later runs read the cache), and load or compute the training labels.

    Raises:
        UserError: The data cannot be listed or decoded, or its labels cannot be read.
    """
    run, console = ctx.run, ctx.console
    with (
        console.progress_bar("rendering the generated clips") as rendering,
        console.progress_bar("decoding clips") as decoding,
        console.progress_bar("annotating with models") as annotating,
        console.progress_bar("comparing clips of different splits") as comparing,
    ):
        training_data = load_training_data(
            recipe,
            run.cache,
            render_progress=rendering.update,
            decode_progress=decoding.update,
            model_progress=annotating.update,
            compare_progress=comparing.update,
        )
    clips = training_data.clips
    run.record_event(
        "clips",
        train=len(clips.train),
        val=len(clips.val),
        test=len(clips.test),
        bad=len(clips.quarantined),
        unlabelled=training_data.unlabelled_count,
        copies=len(clips.copies),
    )
    label_notes = (
        ""
        if training_data.injected_noise_rate is None
        else f", {training_data.injected_noise_rate:.0%} of the labels made wrong"
    )
    if training_data.unlabelled_count:
        label_notes += f", {training_data.unlabelled_count} training clips unlabelled"
    if training_data.trusted is not None:
        run.record_event("trusted", clips=int(training_data.trusted.sum()))
        label_notes += f", {training_data.trusted.sum()} labels checked by a person"
    if training_data.votes:
        run.record_event("votes", aggregate=recipe.labels.aggregate, annotators=describe_annotators(training_data))
        label_notes += f"; labels by {recipe.labels.aggregate} of {len(training_data.votes.annotators)} annotators"
    console.log(
        f"{len(clips.train)} training, {len(clips.val)} validation, {len(clips.test)} test clips; "
        f"{len(clips.classes)} classes{label_notes}; {len(clips.quarantined)} unreadable"
    )
    for note in training_data.label_notes:
        console.log(note)
    for sentence in describe_copies(clips.copies):
        console.log(f"warning: {sentence}")
    return training_data
