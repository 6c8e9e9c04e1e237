"""Commands that run a bundle: ``bench``, ``predict``, ``watch``, ``verify``, ``sign``, ``accuracy``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from skd_bench.errors import UserError
from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED
from skd_edge.cli.options import AnyPath, ExistingFolder, exit_with, json_option, make_progress_counter


@click.command()
@click.argument("bundle", type=ExistingFolder)
@json_option
@click.option("--processes", type=click.IntRange(1, 50), default=5, show_default=True, help="Fresh processes.")
@click.option("--queries", type=click.IntRange(20, 100_000), default=240, show_default=True, help="Queries in each.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of the runtime.")
@click.option("--host", metavar="USER@DEVICE", help="Measure on another machine, through ssh.")
@click.option("--python", default="python3", show_default=True, help="The Python of --host.")
@click.option("--keep", is_flag=True, help="Leave the temporary folder on --host.")
@click.option("--pack", type=AnyPath, metavar="FILE", help="Measure nothing: write FILE, to carry to a device.")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Also on this runtime (doctor lists them).")
@click.option("--scenario", "scenarios", multiple=True, help="MLPerf's: single-stream, multi-stream or offline.")
@click.option("--batches", default="", metavar="1,2,4", help="Clips in a query: a row each.")
@click.option("--bound", type=float, metavar="MS", help="Find the batch of the highest throughput within MS.")
@click.option("--engine", "engines", multiple=True, type=AnyPath, help="Also an engine of skd-edge build.")
@click.option("--out", type=AnyPath, metavar="FILE.json", help="Write the result, and every sample as FILE.npz.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and stop.")
def bench(bundle: Path, as_json: bool, pack: Path | None, **options: Any) -> None:
    """Measure a BUNDLE's files on this machine (the same as python -m skd_bench), or on another one.

    A device without a link runs what --pack wrote: python FILE. It needs numpy and a runtime, no install.
    """
    from skd_bench.remote.bench_command import bench_command
    from skd_bench.text_tables import format_benchmark_table

    result = bench_command(bundle, pack=pack, progress=make_progress_counter("measuring, process"), **options)
    if isinstance(result, str):
        return click.echo(result)
    return click.echo(json.dumps(result, indent=2) if as_json else format_benchmark_table(result))


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", nargs=-1, required=True, type=AnyPath)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes shown for each video.")
@json_option
@click.option("--stream", is_flag=True, help="Frame by frame, of a long video or a camera (/dev/video0).")
@click.option("--every", type=click.IntRange(1), help="Look at each so many-th frame (--stream).")
@click.option("--smooth", type=click.IntRange(1), help="Answer by the mean over so many frames (--stream).")
def predict(
    bundle: Path, videos: tuple[Path, ...], top: int, as_json: bool, stream: bool, every: int | None, smooth: int | None
) -> None:
    """Classify VIDEOS with a BUNDLE; a video that cannot be read is named, and the others go on (exit code 1).

    --stream needs a causal student; it prints a line where the answer changes (--json: one for each frame).
    """
    from skd_bench.inference.frame_stream import iter_stream_lines
    from skd_bench.inference.predict import predict as classify

    if stream:
        for line in iter_stream_lines(bundle, videos, as_json, every=every, smooth=smooth):
            click.echo(line)
        return

    results = classify(bundle, list(videos), top=top)
    click.echo(json.dumps(results, indent=2) if as_json else "\n".join(map(_format_prediction, results)))
    exit_with(EXIT_FAILED if any("error" in result for result in results) else EXIT_DONE)


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", nargs=-1, required=True, type=AnyPath)
@click.option("--window", type=float, help="Seconds of one clip.  [default: dense sampling's, or of the sample clips]")
@click.option("--hop", type=float, default=0.5, show_default=True, help="Seconds between two answers.")
@click.option("--smooth", type=click.IntRange(1, 1000), default=3, show_default=True, help="Answers averaged.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Probability from which one reports.")
@click.option("--background", multiple=True, help="A class that is no event; repeatable.")
@click.option("--events", type=AnyPath, help="What happened: a CSV (video,start,end,class), for false alarms an hour.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="For decoding and runtime.")
@json_option
def watch(
    bundle: Path, videos: tuple[Path, ...], events: Path | None, threads: int, as_json: bool, **options: Any
) -> None:
    """Watch long VIDEOS with a BUNDLE: what happens when, the real-time factor, and each stage's share of the time."""
    from skd_bench.inference.long_video import VideoAnalysisSettings
    from skd_bench.inference.long_video import analyse_videos as analyse
    from skd_bench.text_tables import format_analysis_table

    result = analyse(bundle, list(videos), VideoAnalysisSettings(**options), events=events, threads=threads)
    click.echo(json.dumps(result, indent=2) if as_json else format_analysis_table(result))
    exit_with(EXIT_FAILED if any("error" in row for row in result["videos"]) else EXIT_DONE)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--signers", type=AnyPath, metavar="FILE", help="Who is trusted: ssh-keygen's allowed_signers.")
@click.option("--run/--no-run", default=True, show_default=True, help="Run its files on its sample clips.")
@json_option
def verify(bundle: Path, signers: Path | None, run: bool, as_json: bool) -> None:
    """Check that a BUNDLE (or a zip of one) is as it was made: its signature, its files, its answers.

    Sample clips, where it has some, are answered here as they were where it was made. Nothing is run before all hashes
    are right.
    """
    from skd_bench.evaluation.verify_bundle import verify_bundle

    verification = verify_bundle(bundle, signers=signers, run=run)
    if verification.problems and not as_json:
        raise UserError(f"{bundle} is not as it was made:\n  " + "\n  ".join(verification.problems))
    click.echo(json.dumps(verification.to_json(), indent=2) if as_json else verification.to_text())
    exit_with(EXIT_FAILED if verification.problems else EXIT_DONE)


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.option("--key", type=AnyPath, required=True, help="A private SSH key, or the public half of one in ssh-agent.")
def sign(bundle: Path, key: Path) -> None:
    """Sign a BUNDLE with an SSH key; verify --signers tells who signed."""
    from skd_bench.bundle.signing import sign_bundle as write_signature

    click.echo(
        f"wrote {write_signature(bundle, key)}; to check: skd-edge verify --signers FILE {shlex.quote(str(bundle))}"
    )


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", type=AnyPath)
@click.option("--views", type=click.IntRange(1, 30), multiple=True, default=(1,), show_default=True, help="Repeatable.")
@click.option("--reject", type=click.FloatRange(0, 1), help="Report no class below this probability.")
@click.option("--class", "named", multiple=True, help="A class whose recall at --reject matters; repeatable.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of the runtime.")
@json_option
def accuracy(bundle: Path, videos: Path, as_json: bool, **options: Any) -> None:
    """Score a BUNDLE's files on labelled VIDEOS: a folder with CLASS/video.mp4, or a CSV (path,label[,group])."""
    from skd_bench.evaluation.evaluate import evaluate
    from skd_bench.text_tables import format_accuracy_table

    result = evaluate(bundle, videos, progress=make_progress_counter("scored"), **options)
    click.echo(json.dumps(result, indent=2) if as_json else format_accuracy_table(result))


def _format_prediction(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['video']}: error: {result['error']}"
    top_classes = ", ".join(f"{name} {probability:.1%}" for name, probability in result["top"])
    if "answer" not in result or result["answer"] == result["top"][0][0]:
        return f"{result['video']}: {top_classes}"
    return f"{result['video']}: {result['answer'] or 'unsure'} ({top_classes})"
