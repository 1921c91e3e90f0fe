"""What a run is judged by: detection rates, main accuracy, attack success, and how they are averaged.

Detection counts malicious as the positive class: TP is a malicious client flagged, FP a benign one flagged,
FN a malicious one missed, TN a benign one accepted. Rates are taken per round and then averaged, as the CAM
papers do (Zheng et al., GradCAM-AE and LayerCAM-AE); the mean of F1 is therefore not the F1 of the means.

PDRR (Lu et al., Tables 1 and 2) takes benign as the positive class: its false alarm rate is our FPR and its
missing alarm rate is 1 - recall. FedGrad's published code gives a recall of 1 to a round without attackers;
here it is undefined. Utility and attack success follow FLARE (section 7) and DBA; a ratio whose denominator
is zero is NaN everywhere in this module, and every mean says over how many values it ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LAST_ROUNDS = 20
"""How many rounds at the end of a run the last-20 mean covers."""


@dataclass(frozen=True)
class Detection:
    """How well a verdict separates malicious from benign clients; every rate in [0, 1], NaN where undefined.

    `auc_hard` is the area under the ROC curve of the 0/1 decisions, (recall + 1 - fpr) / 2, which the CAM
    papers report; `auc_score` is the rank AUC of the suspicion scores, equal scores counting one half.
    """

    recall: float
    precision: float
    fpr: float
    acc: float
    f1: float
    auc_hard: float
    auc_score: float

    @property
    def tpr(self) -> float:
        """True-positive rate, FedGrad's name for the recall."""
        return self.recall

    @property
    def far(self) -> float:
        """PDRR's false alarm rate: benign clients rejected / benign clients."""
        return self.fpr

    @property
    def mar(self) -> float:
        """PDRR's missing alarm rate: malicious clients accepted / malicious clients."""
        return 1.0 - self.recall


class Summary(NamedTuple):
    """The three ways to quote a per-round value: the papers differ in which one they print."""

    final: float
    best: float
    last_20_mean: float


def detection(truth: ArrayLike, flagged: ArrayLike | None, scores: ArrayLike | None = None) -> Detection:
    """Score one round's verdict against the truth.

    truth: bool [K], True for malicious. flagged: bool [K], or None when the defense flags nobody by design
    (the rates of its decisions are then NaN, not those of "nobody flagged"). scores: [K], higher = more
    suspicious, or None. A NaN score ranks above every other, infinity included: what cannot be scored is most
    suspicious. Raises ValueError when the lengths differ.
    """
    malicious = _row("truth", truth, bool)
    auc_score = np.nan
    if scores is not None:
        auc_score = rank_auc(malicious, _row("scores", scores, np.float64, malicious.size))
    if flagged is None:
        return Detection(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, auc_score)
    positive = _row("flagged", flagged, bool, malicious.size)
    tp = int(np.count_nonzero(malicious & positive))
    fp = int(np.count_nonzero(positive)) - tp
    fn = int(np.count_nonzero(malicious)) - tp
    tn = malicious.size - tp - fp - fn
    recall = _ratio(tp, tp + fn)
    fpr = _ratio(fp, fp + tn)
    return Detection(
        recall=recall,
        precision=_ratio(tp, tp + fp),
        fpr=fpr,
        acc=_ratio(tp + tn, malicious.size),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        auc_hard=(recall + 1.0 - fpr) / 2.0,
        auc_score=auc_score,
    )


def rank_auc(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Probability that a malicious client outscores a benign one, ties counting one half (Mann-Whitney).

    truth: bool [K]; scores: [K], NaN scores being equal to each other and above infinity. NaN unless there is
    at least one client of each kind.
    """
    malicious = int(np.count_nonzero(truth))
    benign = truth.size - malicious
    if malicious == 0 or benign == 0:
        return np.nan
    # unique sorts NaN last, that is, above infinity
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True, equal_nan=True)
    rank = np.cumsum(size) - (size - 1) / 2.0  # the mean 1-based rank of each group of equal scores
    wins = float(np.sum(rank[group][truth])) - malicious * (malicious + 1) / 2.0
    return wins / (malicious * benign)


def mean_detection(rounds: Sequence[Detection]) -> tuple[Detection, dict[str, int]]:
    """Mean of each rate over the rounds that define it, and how many rounds those were, by field name."""
    names = [field.name for field in fields(Detection)]
    table = np.array([astuple(entry) for entry in rounds], dtype=np.float64).reshape(-1, len(names))
    means = {name: _mean(table[:, column]) for column, name in enumerate(names)}
    counts = np.count_nonzero(~np.isnan(table), axis=0)
    return Detection(**means), dict(zip(names, counts.tolist(), strict=True))


def summarise(values: ArrayLike) -> Summary:
    """Final, best and last-20 mean of a value recorded once a round, in round order, NaN where not measured.

    values: [T]. Final is the last measured value and best the highest (for attack success: the attacker's
    best). The mean runs over the last 20 *rounds*, of which those not measured are left out. All three are
    NaN when nothing was measured.
    """
    history = _row("values", values, np.float64)
    measured = history[~np.isnan(history)]
    if measured.size == 0:
        return Summary(np.nan, np.nan, np.nan)
    return Summary(float(measured[-1]), float(measured.max()), _mean(history[-LAST_ROUNDS:]))


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Main accuracy: the share of clean test inputs given their label; int [n] each, NaN for n = 0."""
    predicted = _row("predictions", predictions, np.int64)
    return _share(predicted == _row("labels", labels, np.int64, predicted.size))


def attack_success_rate(predictions: ArrayLike, labels: ArrayLike | None, target: ArrayLike) -> float:
    """Share of targeted inputs predicted as the attacker's target (backdoor accuracy, attack success rate).

    predictions: int [n], on inputs that carry the trigger. labels: int [n], their true classes: inputs
    already of the target class are left out (DBA); None counts every input, for edge-case sets that carry only
    the target as label. target: one class, or one per input (Bhagoji et al.). NaN when no input is left.
    """
    predicted = _row("predictions", predictions, np.int64)
    wanted, counted = _targeted(labels, target, predicted.size)
    return _share((predicted == wanted)[counted])


def target_confidence(logits: ArrayLike, labels: ArrayLike | None, target: ArrayLike) -> float:
    """Mean softmax probability of the target class over the targeted inputs (FLARE, section 7).

    logits: [n, C]. labels and target as for `attack_success_rate`; NaN when no input is left.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"logits must have shape [n, C], received {list(values.shape)}")
    wanted, counted = _targeted(labels, target, len(values))
    values, wanted = values[counted], wanted[counted]
    if len(values) == 0:
        return np.nan
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    probability = odds[np.arange(len(odds)), wanted] / odds.sum(axis=1)
    return float(probability.mean())


def _targeted(
    labels: ArrayLike | None, target: ArrayLike, n: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The target of each input, int [n], and which inputs count, bool [n]."""
    wanted = np.asarray(target, dtype=np.int64)
    if wanted.ndim > 1 or (wanted.ndim == 1 and wanted.size != n):
        raise ValueError(f"target must be one class or one per input ({n}), received {list(wanted.shape)}")
    wanted = np.broadcast_to(wanted, n)
    if labels is None:
        return wanted, np.ones(n, dtype=bool)
    return wanted, _row("labels", labels, np.int64, n) != wanted


def _row(name: str, values: ArrayLike, dtype: type, size: int | None = None) -> NDArray[Any]:
    row: NDArray[Any] = np.asarray(values, dtype=dtype)
    if row.ndim != 1 or (size is not None and row.size != size):
        wanted = "one dimension" if size is None else f"shape [{size}]"
        raise ValueError(f"{name} must have {wanted}, received shape {list(row.shape)}")
    return row


def _share(hits: NDArray[np.bool_]) -> float:
    return _ratio(int(np.count_nonzero(hits)), hits.size)


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else np.nan


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN when there is none (numpy's nanmean warns instead)."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan
