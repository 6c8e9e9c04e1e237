"""DivideMix (arXiv 2002.07394), reduced: two networks divide the clips for each other and guess labels together.

As in the paper: warm-up on all labels; before each epoch a mixture of two Gaussians on each network's losses gives the
probability that a label is clean; the *other* network learns with it: labels of probably clean clips are refined, those
of the others guessed by both networks, guesses are sharpened, and MixMatch mixes clips and labels.

Reduced: one network is evaluated, not the mean of both, because a device runs one; epochs, optimiser and views are
those of the other rows; averaged weights (the product's) guess and divide; no confidence penalty in the warm-up. New
here: labels that a person checked are always clean.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.suites.method.baselines.study import Floats, Ints, Outcome, Study, name_targets, one_hot
from skd_edge.distill.job import JobSpec
from skd_edge.distill.losses.classification import soft_cross_entropy
from skd_edge.distill.prediction import predict
from skd_edge.distill.teacher_outputs import TeacherOutputs
from skd_edge.distill.trainer import DivergenceError, Trainer, TrainingInputs
from skd_edge.distill.views import training_view

_WARM_UP = 0.25  # share of the epochs
_CLEAN = 0.5  # probability above which a label counts as clean
_SHARPEN = 0.5  # temperature of guesses
_ALPHA = 4.0  # of the Beta distribution of mixing shares
_UNLABELLED = 25.0  # weight of the guessed labels after its ramp, as for 50 % noise in the paper; trials multiply it
_OTHER_SEED = 7_919  # added to the seed of the second network
_SECOND_VIEWS = 3_000_000  # view numbers of the second view of a clip


def train_dividemix(study: Study) -> Outcome:
    """The first of two students by DivideMix.

    Raises:
        UserError: A loss is not finite, again after the learning rate of both was halved.
    """
    data, classes = study.data, len(study.data.clips.classes)
    given = data.given_labels
    targets = one_hot(given, classes)
    spec = study.make_factory(data).make_labels_only_job(study.student).spec
    spec = replace(spec, targets=name_targets("dividemix", targets, study.checked, study.weight))
    folder = study.run.folder / "direct" / spec.hash
    weight = _UNLABELLED * study.weight
    peers = [
        DivideMixTrainer(replace(spec, seed=spec.seed + n * _OTHER_SEED), study, targets, folder / str(n), weight)
        for n in range(2)
    ]
    with torch.random.fork_rng(devices=[]):
        while (epoch := len(peers[1].curve)) < spec.epochs:
            good_states = [peer.copy_state() for peer in peers]
            warm = epoch < max(round(_WARM_UP * spec.epochs), 1)
            clean = [None if warm else p.estimate_clean_labels(given, study.checked) for p in peers]
            try:
                for peer, other, division in zip(peers, reversed(peers), reversed(clean), strict=True):
                    peer.train_divided_epoch(epoch, division, other)
            except DivergenceError as diverged:  # each learns with the other: both return to the epoch before
                for peer, state in zip(peers, good_states, strict=True):
                    peer.recover_at_half_rate(diverged, epoch, state)
    for peer in peers:
        peer.discard_checkpoint()
    first = peers[0]
    return Outcome(first.take_best_network(), first.selection.accuracy, sum(p.seconds for p in peers), spec.epochs)


class DivideMixTrainer(Trainer):
    """One of the two networks.

    Attributes:
        clean: ``(N,)`` probability that a label is clean, by the other network; None during the warm-up.
        other: the other network.
    """

    def __init__(self, spec: JobSpec, study: Study, targets: Floats, folder: Path, weight: float) -> None:
        super().__init__(spec, TrainingInputs(study.data.clips, targets, study.preprocess), folder)
        self.weight, self.other = weight, self
        self.clean: Tensor | None = None

    def estimate_clean_labels(self, labels: Ints, checked: NDArray[np.bool_]) -> Floats:
        """The probability ``(N,)`` that each label is clean, by this network's losses; 0 without a label."""
        logits = predict(self.ema_network, self.clips.train, self.preprocess)
        log_p = np.asarray(torch.log_softmax(torch.from_numpy(logits), 1).numpy())
        return fit_clean_probability(-log_p[np.arange(len(labels)), labels], labels, checked)

    def train_divided_epoch(self, epoch: int, clean: Floats | None, other: DivideMixTrainer) -> None:
        """Train one epoch with the other network's division of the clips."""
        self.clean = None if clean is None else torch.from_numpy(clean).to(self.device)
        self.other = other
        self._run_epoch(epoch, time.perf_counter())

    def take_best_network(self) -> torch.nn.Module:
        """The averaged weights of the epoch that validated best."""
        self.ema_network.load_state_dict(self.selection.weights)
        return self.ema_network.cpu().eval().requires_grad_(False)

    def discard_checkpoint(self) -> None:
        """Remove the checkpoint: two networks that teach each other are not resumed."""
        self.checkpoint.path.unlink(missing_ok=True)

    def guess_probabilities(self, views: tuple[Tensor, ...]) -> Tensor:
        """Class probabilities ``(B, C)`` of the averaged network, mean over views; no gradient."""
        with torch.no_grad():
            return torch.stack([torch.softmax(self.ema_network(v).logits.float(), 1) for v in views]).mean(0)

    def _accumulate_gradients(
        self, index: NDArray[np.int64], view: int, teacher_outputs: TeacherOutputs | None, share: float
    ) -> dict[str, Tensor]:
        first = training_view(self.clips.train, index, view, self.spec, self.preprocess).to(self.device)
        rows = torch.from_numpy(index).to(self.device)
        if self.clean is None:
            terms = {"labels": soft_cross_entropy(self.learner(first).logits, self.targets[rows])}
        else:
            second_view = _SECOND_VIEWS + view
            second = training_view(self.clips.train, index, second_view, self.spec, self.preprocess).to(self.device)
            terms = self._mix_and_match(first, second, self.targets[rows], self.clean[rows])
        (share * torch.stack(list(terms.values())).sum()).backward()
        return {name: term.detach() for name, term in terms.items()}

    def _mix_and_match(self, first: Tensor, second: Tensor, given: Tensor, clean: Tensor) -> dict[str, Tensor]:
        own, theirs = (net.guess_probabilities((first, second)) for net in (self, self.other))
        is_clean, w = clean > _CLEAN, clean[:, None]
        refined = sharpen(w * given + (1 - w) * own)
        targets = torch.where((is_clean & (clean < 1))[:, None], refined, sharpen((own + theirs) / 2))
        targets = torch.where((clean >= 1)[:, None], given, targets)  # checked by a person
        clips, targets, labelled = torch.cat([first, second]), targets.repeat(2, 1), is_clean.repeat(2)
        rng = np.random.default_rng((self.spec.seed, self.step, 31))
        partner = torch.from_numpy(rng.permutation(len(clips))).to(self.device)
        mix = float(rng.beta(_ALPHA, _ALPHA))
        mix = max(mix, 1 - mix)
        logits = self.learner(mix * clips + (1 - mix) * clips[partner]).logits.float()
        targets = mix * targets + (1 - mix) * targets[partner]
        cross_entropy = -(targets * torch.log_softmax(logits, 1)).sum(1)
        squared = ((torch.softmax(logits, 1) - targets) ** 2).mean(1)
        ramp = self.weight * min(self.step / self.total_steps, 1.0)
        prior = torch.full_like(targets[0], 1 / targets.shape[1])
        mean = torch.softmax(logits, 1).mean(0).clamp_min(1e-8)
        return {
            "labels": (cross_entropy * labelled).sum() / labelled.sum().clamp_min(1),
            "unlabelled": ramp * (squared * ~labelled).sum() / (~labelled).sum().clamp_min(1),
            "all classes": (prior * torch.log(prior / mean)).sum(),
        }


def sharpen(probabilities: Tensor) -> Tensor:
    """Raise ``(B, C)`` to the power of 1 / temperature, rows sum to 1."""
    raised = probabilities ** (1 / _SHARPEN)
    return raised / raised.sum(1, keepdim=True).clamp_min(1e-12)


def fit_clean_probability(losses: Floats, labels: Ints, checked: NDArray[np.bool_]) -> Floats:
    """The posterior ``(N,)`` of the Gaussian with the lower mean, of two fitted to the losses of labelled clips.

    It is 1 for clips that a person checked, 0 for clips without a label, and below 1 for all others.
    """
    from sklearn.mixture import GaussianMixture

    has, clean = (labels >= 0) & ~checked, np.zeros(len(labels), np.float32)
    if has.sum() >= 2 and np.ptp(losses[has]) > 1e-6:
        scaled = (losses[has] - losses[has].min()) / np.ptp(losses[has])
        mixture = GaussianMixture(2, max_iter=50, tol=1e-2, reg_covar=5e-4, random_state=0).fit(scaled[:, None])
        clean[has] = mixture.predict_proba(scaled[:, None])[:, mixture.means_[:, 0].argmin()]
    clean = np.minimum(clean, 0.999)
    clean[checked] = 1.0
    return np.asarray(clean, np.float32)
