"""What a run is judged by: detection rates, main accuracy, attack success, and how they are averaged.

Detection counts malicious as the positive class: TP is a malicious client flagged, FP a benign one flagged,
FN a malicious one missed, TN a benign one accepted. Rates are taken per round and then averaged, as the CAM
papers do (Zheng et al., GradCAM-AE and LayerCAM-AE); the mean of F1 is therefore not the F1 of the means.

PDRR (Lu et al., Tables 1 and 2) takes benign as the positive class: its false alarm rate is our FPR and its
missing alarm rate is 1 - recall. FedGrad's published code gives a recall of 1 to a round without attackers;
here it is undefined. A ratio whose denominator is zero is NaN everywhere in this module, and every mean says over
how many values it ran.

Main accuracy, attack success and target confidence are counted where the model is evaluated
(`raysim.training.local.LocalTrainer.evaluate`): attack success is the accuracy on inputs that carry the label the attacker
wants, those of that class left out (`Attack.triggered_test`). How they are quoted is here: `summarise`.
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
    """How well a verdict separates malicious from benign clients; every rate in [0, 1], NaN if undefined.

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


class Measure(NamedTuple):
    """A model on one test set: accuracy, mean cross-entropy, mean confidence in the label.

    They are NaN if `unpredicted` of the `samples` got logits that are not finite: NaN is not a prediction.
    """

    accuracy: float
    loss: float
    confidence: float
    samples: int
    unpredicted: int

    @classmethod
    def of(
        cls, samples: float, correct: float, loss: float, confidence: float, unpredicted: float
    ) -> Measure:
        """From sums over the samples, as `LocalTrainer.evaluate` counts them."""
        rates = (correct / samples, loss / samples, confidence / samples)
        return cls(*((np.nan,) * 3 if unpredicted else rates), int(samples), int(unpredicted))


UNJUDGED = Detection(*[np.nan] * 7)
"""The rates of a round in which the defense was given nothing to judge: the engine rejected every upload."""


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
    """Final, best and last-20 mean of a value recorded once a round, in round order, NaN if not measured.

    values: [T]. Final is the last measured value and best the highest (for attack success: the attacker's
    best). The mean runs over the last 20 *rounds*, of which those not measured are left out. All three are
    NaN when nothing was measured.
    """
    history = _row("values", values, np.float64)
    measured = history[~np.isnan(history)]
    if measured.size == 0:
        return Summary(np.nan, np.nan, np.nan)
    return Summary(float(measured[-1]), float(measured.max()), _mean(history[-LAST_ROUNDS:]))


def _row(name: str, values: ArrayLike, dtype: type, size: int | None = None) -> NDArray[Any]:
    row: NDArray[Any] = np.asarray(values, dtype=dtype)
    if row.ndim != 1 or (size is not None and row.size != size):
        wanted = "one dimension" if size is None else f"shape [{size}]"
        raise ValueError(f"{name} must have {wanted}, received shape {list(row.shape)}")
    return row


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else np.nan


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN when there is none (numpy's nanmean warns instead)."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan
