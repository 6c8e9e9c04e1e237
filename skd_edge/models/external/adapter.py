"""An adapter that makes any ``nn.Module`` a teacher with substages, which are given by the names of its modules.

Forward hooks pool the outputs of the named modules to ``(B, T, C)`` (feature_pooling.py); the network itself is not
changed. The adapter also converts the clips to the network's input: axes, number of frames, size, normalisation.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_edge.models.external.adapter_spec import InputLayout
from skd_edge.models.external.factory import format_error_with_location
from skd_edge.models.external.feature_pooling import find_layouts, pool_over_space
from skd_edge.models.substages import SubstageOutput
from skd_edge.recipe.sections import ClipSettings

_PROBE_CLIPS = 3  # batch size of the pass that finds the shapes; 3, because other axes are unlikely to have length 3
_MAX_INFERENCE_CLIPS = 16  # clips in one pass without gradients; more would need much memory in a large network


class Adapter(nn.Module):
    """Any module as a ``StagedNetwork``.

    A pass always runs the whole network. ``upto`` only limits the features that are returned, and leaves out the
    logits. During export no features are pooled, and ``features`` is empty.

    Args:
        network: the module to adapt; its weights, names and mode are not changed.
        substages: dotted names of the modules whose outputs end the substages, first substage first.
        clip: the clips that the adapter gets, ``(B, 3, T, H, W)``, as in the recipe's section ``clip``.
        expected_clip: the clips that the network needs; None: the same. The adapter resizes the clips, repeats or drops
            frames evenly, and changes the normalisation. This cannot restore details that the given clips lack.
        input_layout: input of the network's forward: ``clip`` is ``(B, 3, T, H, W)``, ``frames-first`` is
            ``(B, T, 3, H, W)``, and ``frames`` is ``(B*T, 3, H, W)``, where the logits are averaged over the frames.
        layout: axes of the substages' outputs, see feature_pooling.py; it applies to outputs with that number of axes.
            None: found from their shapes.
        tubelet: number of frames that one token covers; None: found from the shapes.

    Attributes:
        widths: channels of each substage's pooled features.
        layouts: axes of each substage's output.
        classes: number of logits.
        expected_clip: the clips that the network needs.

    Raises:
        UserError: The network has no module of a given name, does not accept the clips, or has an output whose layout
            cannot be found.
    """

    def __init__(
        self,
        network: nn.Module,
        substages: tuple[str, ...],
        *,
        clip: ClipSettings,
        expected_clip: ClipSettings | None = None,
        input_layout: InputLayout = "clip",
        layout: str | None = None,
        tubelet: int | None = None,
    ) -> None:
        super().__init__()
        expected_clip = expected_clip or clip
        self.network, self.substages, self.input_layout = network, substages, input_layout
        self.layout, self.tubelet = layout, tubelet
        self.frames, self.expected_clip = expected_clip.frames, expected_clip
        self.clip_converter = ClipConverter(clip, expected_clip)
        _check_module_names(network, substages)
        self.layouts: tuple[str, ...] = ()
        self.columns: Tensor | None
        self.register_buffer("columns", None, persistent=False)
        self.widths, self.classes = self._probe_shapes(clip)

    def select_classes(self, columns: Sequence[int]) -> None:
        """Return only these columns of the network's logits, in this order: the classes that the dataset has.

        Args:
            columns: for each class of the dataset, its column in the network's logits.
        """
        self.columns, self.classes = torch.tensor(columns), len(columns)

    def forward(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Run clips ``(B, 3, T, H, W)``; features of the first ``upto`` substages, or None: of all, and the logits."""
        if torch.compiler.is_exporting():
            return SubstageOutput([], self._extract_logits(self.network(self._prepare_input(clip))))
        if self.training or torch.is_grad_enabled() or len(clip) <= _MAX_INFERENCE_CLIPS:
            return self._forward_single_batch(clip, upto)
        parts = [self._forward_single_batch(part, upto) for part in clip.split(_MAX_INFERENCE_CLIPS)]
        logits = [part.logits for part in parts if part.logits is not None]
        features = [torch.cat(each) for each in zip(*(part.features for part in parts), strict=True)]
        return SubstageOutput(features, torch.cat(logits) if logits else None)

    def _forward_single_batch(self, clip: Tensor, upto: int | None) -> SubstageOutput:
        features: dict[str, Tensor] = {}
        layouts = dict(zip(self.substages, self.layouts, strict=True))

        def store_features(name: str, output: object) -> None:  # pooled at once: the next module may work in place
            tensor = _find_tensor(output)
            features[name] = pool_over_space(
                tensor, layouts[name], batch=len(clip), frames=self.frames, tubelet=self.tubelet
            )

        names = self.substages[:upto]
        with _capture_outputs(self.network, names, store_features):
            network_output = self.network(self._prepare_input(clip))
        logits = self._extract_logits(network_output) if upto is None else None
        return SubstageOutput([features[name] for name in names], logits)

    def _prepare_input(self, clip: Tensor) -> Tensor:
        """Convert clips ``(B, 3, T, H, W)`` to the input of the network's forward."""
        clip = self.clip_converter(clip)
        if self.input_layout == "clip":
            return clip
        frames = clip.transpose(1, 2)
        return frames if self.input_layout == "frames-first" else frames.flatten(0, 1)

    def _extract_logits(self, output: object) -> Tensor:
        logits = _find_tensor(output)
        logits = logits.unflatten(0, (-1, self.frames)).mean(1) if self.input_layout == "frames" else logits
        return logits if self.columns is None else logits.index_select(1, self.columns)

    # -------------------------------------------------------------------------------------------- shapes
    def _probe_shapes(self, clip: ClipSettings) -> tuple[tuple[int, ...], int]:
        """Run dummy clips to find the substages' widths and the number of logits; also sets ``layouts``."""
        shapes: dict[str, torch.Size] = {}

        def store_shape(name: str, output: object) -> None:
            shapes[name] = _find_tensor(output, f"substage {name}").shape

        parameter = next(self.network.parameters(), torch.zeros(()))
        dummy = torch.zeros(_PROBE_CLIPS, 3, clip.frames, clip.size, clip.size, device=parameter.device)
        training = {module for module in self.network.modules() if module.training}
        self.network.eval()
        try:
            with torch.no_grad(), _capture_outputs(self.network, self.substages, store_shape):
                logits = self._extract_logits(self.network(self._prepare_input(dummy)))
        except UserError:
            raise
        except Exception as error:
            shape = tuple(self._prepare_input(dummy).shape)
            raise UserError(
                f"the teacher does not accept clips {shape}, the shape that teacher.input {self.input_layout!r} gives: "
                f"{format_error_with_location(error)}; set teacher.input (clip, frames-first, frames) or teacher.clip"
            ) from error
        finally:
            for module in training:
                module.training = True
        if logits.ndim != 2 or len(logits) != _PROBE_CLIPS:
            per_frame = self.input_layout == "frames"
            hint = "" if per_frame else "; if they are logits for each frame, set 'teacher.input: frames'"
            raise UserError(
                f"the teacher's output for {_PROBE_CLIPS} clips has the shape {tuple(logits.shape)}; it must be logits "
                f"(clips, classes){hint}"
            )
        self.layouts = tuple(self._resolve_layout(name, tuple(shapes[name])) for name in self.substages)
        axes = zip(self.substages, self.layouts, strict=True)
        return tuple(shapes[name][layout.index("C")] for name, layout in axes), logits.shape[1]

    def _resolve_layout(self, name: str, shape: tuple[int, ...]) -> str:
        if self.layout is not None and len(self.layout) == len(shape):
            return self.layout
        found = find_layouts(shape, batch=_PROBE_CLIPS, frames=self.frames, tubelet=self.tubelet)
        if len(found) == 1:
            return found[0]
        problem = f"could be {' or '.join(found)}" if found else "fits no known layout"
        raise UserError(
            f"substage {name} gives {shape} for {_PROBE_CLIPS} clips of {self.frames} frames, a shape that {problem}; "
            "set teacher.layout (B clips, T time, F the frames of all clips, C channels, H and W space, N tokens), or "
            "name another module"
        )


class ClipConverter(nn.Module):
    """Converts clips: frames picked evenly, bilinear resize, another normalisation. Equal settings change nothing.

    Args:
        source: the clips that come in.
        target: the clips that go out.
    """

    def __init__(self, source: ClipSettings, target: ClipSettings) -> None:
        super().__init__()
        self.size = target.size if target.size != source.size else None
        self.order: Tensor | None
        self.scale: Tensor | None
        self.offset: Tensor | None
        order = torch.arange(target.frames) * source.frames // target.frames
        self.register_buffer("order", order if target.frames != source.frames else None, persistent=False)
        same = (source.mean, source.std) == (target.mean, target.std)
        (m, s), (mean, std) = ([torch.tensor(v).view(3, 1, 1, 1) for v in (c.mean, c.std)] for c in (source, target))
        self.register_buffer("scale", None if same else s / std, persistent=False)
        self.register_buffer("offset", None if same else (m - mean) / std, persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Convert clips ``(B, 3, T, H, W)`` to ``(B, 3, T', H', W')``."""
        if self.order is not None:
            clip = clip.index_select(2, self.order)
        if self.size is not None:
            frames = clip.shape[2]
            flat = clip.transpose(1, 2).flatten(0, 1)
            flat = F.interpolate(flat, size=(self.size, self.size), mode="bilinear", align_corners=False)
            clip = flat.unflatten(0, (-1, frames)).transpose(1, 2)
        if self.scale is not None and self.offset is not None:
            clip = clip * self.scale + self.offset
        return clip


def _check_module_names(network: nn.Module, names: tuple[str, ...]) -> None:
    """Raise a ``UserError`` for a name that is not a module of the network."""
    known = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 8, 0.0)
            more = f" and {len(known) - len(close)} more" if len(known) > len(close) else ""
            raise UserError(
                f"teacher.substages names {name!r}, which is not a module of the network; choose from: "
                f"{', '.join(close) or 'none'}{more}"
            )


@contextmanager
def _capture_outputs(network: nn.Module, names: tuple[str, ...], on_output: Any) -> Iterator[None]:
    """Call ``on_output(name, output)`` for each of these modules as it runs; each must run exactly once.

    The hooks are removed after the pass, because a module with hooks can be neither copied nor exported.

    Raises:
        UserError: One of the modules did not run exactly once.
    """
    runs = dict.fromkeys(names, 0)

    def make_hook(name: str) -> Any:
        def record_output(module: nn.Module, given: object, output: object) -> None:
            runs[name] += 1
            on_output(name, output)

        return record_output

    with ExitStack() as stack:
        for name in names:
            handle = network.get_submodule(name).register_forward_hook(make_hook(name))
            stack.callback(handle.remove)
        yield
    for name, count in runs.items():
        if count != 1:
            raise UserError(
                f"substage {name} ran {count} times in one pass of the teacher; name a module that runs exactly once"
            )


def _find_tensor(output: object, what: str = "the teacher") -> Tensor:
    """The tensor in an output: itself, its ``logits`` or ``last_hidden_state``, or the first of several."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "last_hidden_state"):
        inner = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(inner, Tensor):
            return inner
    several = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(several, list | tuple) and several and isinstance(several[0], Tensor):
        return several[0]
    raise UserError(
        f"{what} returns a {type(output).__name__} without a tensor; it must return a tensor, or an object with one"
    )
