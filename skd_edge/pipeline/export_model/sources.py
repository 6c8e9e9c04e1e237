"""Input of ``skd-edge export``: load a network from a checkpoint or a factory, and decode real clips to compare on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from skd_bench.errors import UsageError, UserError
from skd_bench.listing.folder_walk import LeftOut, PictureFolders, find_clips
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import ClipError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.recipe.schema import NetworkSpec, Teacher
from skd_edge.recipe.sections import ClipSettings

if TYPE_CHECKING:
    from torch import nn

FACTORY_PATTERN = re.compile(r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$")
_CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
Section = TypeVar("Section", bound=BaseModel)
ProgressCallback = Callable[[int, int], None]


def parse_recipe_section(model: type[Section], options: Mapping[str, Any], **more: Any) -> Section:
    """A section of a recipe from command-line options; an option that is None keeps its default.

    Raises:
        UsageError: The value of an option is not valid.
    """
    try:
        return model(**more, **{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{'.'.join(map(str, first['loc'][:1]))} {first['input']!r}: {first['msg']}") from None


def is_factory(source: str) -> bool:
    """Whether a source is a callable (``package.module:callable``) rather than a file."""
    return bool(FACTORY_PATTERN.match(source)) and not Path(source).exists()


def load_checkpoint_network(source: Path, network: NetworkSpec, clip: ClipSettings) -> tuple[nn.Module, int]:
    """A network of a built-in family with the weights of a file, in eval mode, and its number of classes.

    Raises:
        UsageError: ``source`` is neither a checkpoint file nor a factory.
        UserError: Reading the file would run code, or its tensors do not fit the spec.
    """
    from skd_edge.models.builder import build_network
    from skd_edge.models.substages import LogitsOnly
    from skd_edge.models.weights import load_weights, read_weights

    if source.suffix not in _CHECKPOINT_SUFFIXES or not source.is_file():
        raise UsageError(
            f"{source} is neither a checkpoint (an existing file: {' '.join(_CHECKPOINT_SUFFIXES)}) nor a factory "
            "(package.module:callable)"
        )
    heads = [t.shape[0] for name, t in read_weights(source).items() if name.split(".")[-2:] == ["head", "weight"]]
    if len(heads) != 1:
        raise UserError(
            f"{source} is not a checkpoint of a built-in family (no head.weight); export it through a factory"
        )
    built = build_network(network, classes=heads[0], clip=clip, seed=0)
    load_weights(
        built,
        source,
        f"a {network.family} network of width {network.width}, depths {network.depths}, temporal {network.temporal}",
    )
    return LogitsOnly(built).eval(), heads[0]


def load_factory_network(
    source: str, clip: ClipSettings, *, allow_code: bool, arguments: dict[str, Any], takes: str, weights: Path | None
) -> tuple[nn.Module, int]:
    """The network that a callable returns, in eval mode, and its number of classes.

    Args:
        source: ``package.module:callable``, imported from Python's path or from the current folder.
        clip: Frames, size and sampling of the network's input.
        allow_code: Whether the user allows this code to run.
        arguments: Keyword arguments of the callable.
        takes: Input layout of the network's forward method, see `Adapter`.
        weights: A file whose tensors are loaded into the network; None: the callable returns it with its weights.

    Raises:
        UsageError: ``allow_code`` is False.
        UserError: The network cannot be built (see `build_from_factory` and `Adapter`), or it is in train mode.
    """
    from skd_edge.models.external.adapter import Adapter
    from skd_edge.models.external.factory import allow_factory_code, build_from_factory
    from skd_edge.models.substages import LogitsOnly
    from skd_edge.models.weights import load_weights

    # Not validated as a recipe's teacher: that requires substages, which an exported network does not need.
    teacher = Teacher.model_construct(factory=source, arguments=arguments, code=Path.cwd())
    try:
        allow_factory_code(teacher, allow_code)
        network = build_from_factory(teacher, seed=0)
        if network.training:
            raise UserError(
                f"{source} returns a network in train mode, whose output depends on the other clips of a batch; return "
                "network.eval()"
            )
        if weights is not None:
            load_weights(network, weights, f"the network of {source}")
        # click accepts only the valid input layouts.
        adapted = Adapter(network, (), clip=clip, input_layout=takes)  # type: ignore[arg-type]
    except UserError as error:
        message = str(error).replace("teacher.factory ", "the factory ").replace("the teacher", "the network")
        message = message.replace("teacher.arguments", "--arguments").replace("teacher.input", "--input")
        raise type(error)(message) from error
    return LogitsOnly(adapted).eval(), adapted.classes


@dataclass(frozen=True)
class DecodedVideos:
    """Real clips, decoded in the same way as on the device.

    Attributes:
        clips: ``(N, T, H, W, 3)`` uint8, in random order, so that classes are mixed.
        labels: ``(N,)`` index of each clip's folder in ``folders``; -1 for a clip directly below the root.
        folders: Names of the folders directly below the root, sorted.
        decode_errors: Files that could not be decoded, with the reason.
        left_out: What the folder holds besides clips; empty if nothing.
    """

    clips: NDArray[np.uint8]
    labels: NDArray[np.int64]
    folders: tuple[str, ...]
    decode_errors: tuple[str, ...]
    left_out: str = ""


def find_videos(root: Path, left_out: LeftOut, pictures: PictureFolders = "auto") -> list[Path]:
    """Every clip below a folder, sorted.

    Args:
        root: the folder.
        left_out: counts what is not a clip.
        pictures: whether folders of pictures are clips beside videos, see `find_clips`.

    Raises:
        UserError: The folder has no videos.
    """
    found = [clip.path for clip in find_clips(root, left_out, pictures=pictures)]
    if not found:
        rest = f" ({text})" if (text := left_out.to_text()) else ""
        raise UserError(
            f"{root} holds no videos{rest}; give --clips a folder of videos, best with one folder for each class"
        )
    return found


def decode_videos(
    root: Path,
    clip: ClipSettings,
    *,
    max_videos: int,
    pictures: PictureFolders = "auto",
    progress: ProgressCallback | None = None,
) -> DecodedVideos:
    """Decode up to ``max_videos`` videos below a folder, drawn at random with a fixed seed.

    Args:
        root: the folder.
        clip: frames, size and sampling of the clips.
        max_videos: how many videos to decode at most.
        pictures: see `find_videos`.
        progress: called with (videos decoded, videos to decode).

    Raises:
        UserError: The folder has no videos, or none of them can be decoded.
    """
    left_out = LeftOut()
    paths = find_videos(root, left_out, pictures)
    chosen = np.random.default_rng(0).permutation(len(paths))[:max_videos]
    folders = sorted({p.relative_to(root).parts[0] for p in paths if len(p.relative_to(root).parts) > 1})
    sampling, preprocess = inference_preprocessing(clip)
    clips, labels, decode_errors = [], [], []
    for done, i in enumerate(chosen):
        try:
            clips.append(decode_clip(paths[i], sampling, preprocess))
        except ClipError as error:
            decode_errors.append(str(error))
        else:
            parts = paths[i].relative_to(root).parts
            labels.append(folders.index(parts[0]) if len(parts) > 1 else -1)
        if progress:
            progress(done + 1, len(chosen))
    if not clips:
        raise UserError(f"none of the {len(chosen)} videos in {root} can be decoded: {decode_errors[0]}")
    return DecodedVideos(
        np.stack(clips), np.array(labels, np.int64), tuple(folders), tuple(decode_errors), left_out.to_text()
    )
