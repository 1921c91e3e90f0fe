"""Detection rates against hand-computed and published figures, AUC against scikit-learn, summaries by hand."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from raysim.metrics import (
    Detection,
    detection,
    mean_detection,
    rank_auc,
    summarise,
)


def flags(size: int, *where: int) -> np.ndarray:
    row = np.zeros(size, dtype=bool)
    row[list(where)] = True
    return row


def test_detection_by_hand():
    # malicious 0, 1, 2; flagged 0, 1, 5: TP 2, FP 1, FN 1, TN 4
    found = detection(flags(8, 0, 1, 2), flags(8, 0, 1, 5))
    assert found.recall == pytest.approx(2 / 3)
    assert found.precision == pytest.approx(2 / 3)
    assert found.fpr == pytest.approx(1 / 5)
    assert found.acc == pytest.approx(6 / 8)
    assert found.f1 == pytest.approx(4 / 6)
    assert found.auc_hard == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert math.isnan(found.auc_score)
    assert (found.tpr, found.far, found.mar) == (found.recall, found.fpr, 1 - found.recall)


def test_detection_accepts_integers_and_lists():
    assert astuple(detection([1, 0, 0], [0, 1, 0]))[:5] == (0.0, 0.0, 0.5, 1 / 3, 0.0)


@pytest.mark.parametrize(
    ("recall", "fpr", "auc"),
    [
        (0.047, 0.173, 0.437),
        (0.08, 0.131, 0.474),
        (0.737, 0.751, 0.493),
        (1.0, 0.319, 0.841),
    ],
)
def test_hard_auc_is_the_rank_auc_of_the_decisions(recall, fpr, auc):
    """LayerCAM-AE: three rows of Table 2, and the beta = 0.5 row, which prints .864 where .841 follows."""
    malicious, benign = 3000, 21000
    truth = np.arange(malicious + benign) < malicious
    flagged = np.zeros_like(truth)
    flagged[: round(recall * malicious)] = True
    flagged[malicious : malicious + round(fpr * benign)] = True
    found = detection(truth, flagged, flagged)
    assert found.auc_hard == pytest.approx(auc, abs=6e-4)
    assert found.auc_hard == pytest.approx(found.auc_score, abs=1e-12)


@pytest.mark.parametrize("caught", range(21))
def test_a_top_20_rule_has_tied_alarm_rates(caught):
    """PDRR: 30 benign and 20 malicious, exactly 20 flagged, so 30 FAR = 20 MAR."""
    truth = np.arange(50) < 20
    flagged = np.zeros(50, dtype=bool)
    flagged[:caught] = True
    flagged[20 : 20 + 20 - caught] = True
    found = detection(truth, flagged)
    assert 30 * found.far == pytest.approx(20 * found.mar)


def test_published_alarm_rates_of_pdrr():
    """Its DAGMM row under the Krum attack at round 20: FAR .33 and MAR .5, that is 10 caught of 20."""
    truth = np.arange(50) < 20
    found = detection(truth, flags(50, *range(10), *range(20, 30)))
    assert found.far == pytest.approx(1 / 3)
    assert found.mar == pytest.approx(0.5)


def test_mean_of_f1_is_not_f1_of_means():
    # a perfect round, and one that flags the attacker and 3 of 3 benign: P = 1/4, R = 1, F1 = 2/5
    rounds = [detection(flags(4, 0), flags(4, 0)), detection(flags(4, 0), np.ones(4, dtype=bool))]
    mean, counts = mean_detection(rounds)
    assert (mean.recall, mean.precision, mean.f1) == (1.0, 0.625, 0.7)
    assert 2 * mean.recall * mean.precision / (mean.recall + mean.precision) == pytest.approx(10 / 13)
    assert counts["f1"] == 2
    assert counts["auc_score"] == 0


def test_without_attackers_the_recall_is_undefined():
    found = detection(flags(5), flags(5, 3), np.arange(5.0))
    assert math.isnan(found.recall)
    assert math.isnan(found.mar)
    assert math.isnan(found.auc_hard)
    assert math.isnan(found.auc_score)
    assert (found.precision, found.fpr, found.acc, found.f1) == (0.0, 0.2, 0.8, 0.0)
    quiet = detection(flags(5), flags(5))
    assert math.isnan(quiet.precision)
    assert math.isnan(quiet.f1)
    assert (quiet.fpr, quiet.acc) == (0.0, 1.0)


def test_without_benign_clients_the_false_positive_rate_is_undefined():
    found = detection(flags(3, 0, 1, 2), flags(3, 0))
    assert math.isnan(found.fpr)
    assert math.isnan(found.auc_hard)
    assert (found.recall, found.precision) == (pytest.approx(1 / 3), 1.0)


def test_nobody_flagged_leaves_precision_out_of_the_mean():
    rounds = [detection(flags(4, 0), flags(4)), detection(flags(4, 0), flags(4, 0))]
    mean, counts = mean_detection(rounds)
    assert (mean.precision, counts["precision"]) == (1.0, 1)
    assert (mean.recall, counts["recall"]) == (0.5, 2)
    assert mean.mar == 0.5


def test_gradcam_ae_recall_is_the_mean_over_the_33_evaluated_rounds():
    hit, miss = detection(flags(24, 0), flags(24, 0)), detection(flags(24, 0), flags(24))
    mean, counts = mean_detection([hit] * 28 + [miss] * 5)
    assert mean.recall == pytest.approx(0.848, abs=5e-4)
    assert counts["recall"] == 33


def test_a_defense_that_does_not_flag_has_no_decision_rates():
    found = detection(flags(4, 3), None, [0.0, 1.0, 2.0, 1.5])
    assert all(math.isnan(rate) for rate in astuple(found)[:6])
    assert found.auc_score == pytest.approx(2 / 3)


def test_empty_cohort_and_no_rounds_are_undefined():
    assert all(math.isnan(rate) for rate in astuple(detection([], [], [])))
    mean, counts = mean_detection([])
    assert all(math.isnan(rate) for rate in astuple(mean))
    assert set(counts.values()) == {0}


def test_rank_auc_by_hand():
    truth = flags(5, 0, 1)
    # pairs won by 0 (score 3): all three; by 1 (score 1): one won, one tied, one lost
    assert detection(truth, None, [3.0, 1.0, 0.0, 1.0, 2.0]).auc_score == pytest.approx((3 + 1.5) / 6)
    assert detection(truth, None, np.zeros(5)).auc_score == 0.5


def test_rank_auc_agrees_with_scikit_learn():
    generator = np.random.default_rng(7)
    for size in (5, 40, 301):
        truth = generator.random(size) < 0.4
        truth[:2] = True, False
        scores = generator.integers(0, 6, size).astype(float)  # many ties
        assert rank_auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_infinite_and_nan_scores_rank_as_most_suspicious():
    truth = flags(4, 0)
    assert detection(truth, None, [np.nan, 1.0, 2.0, np.inf]).auc_score == 1.0
    assert detection(truth, None, [np.inf, 1.0, 2.0, np.nan]).auc_score == pytest.approx(2 / 3)
    assert detection(truth, None, [np.nan, np.nan, 0.0, -np.inf]).auc_score == pytest.approx(2.5 / 3)
    assert detection(truth, None, [np.inf, np.inf, 0.0, -np.inf]).auc_score == pytest.approx(2.5 / 3)


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="flagged"):
        detection([True, False], [True])
    with pytest.raises(ValueError, match="scores"):
        detection([True, False], None, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="truth"):
        detection([[True, False]], None)


def test_detection_is_a_plain_record():
    assert Detection(1, 1, 0, 1, 1, 1, 1).mar == 0.0


def test_summarise():
    assert summarise([0.1, 0.9, 0.5]) == (0.5, 0.9, 0.5)
    summary = summarise(np.arange(100.0))
    assert (summary.final, summary.best, summary.last_20_mean) == (99.0, 99.0, 89.5)


def test_summarise_skips_rounds_that_were_not_measured():
    values = np.full(40, np.nan)
    values[[0, 10, 20, 30]] = 0.9, 0.1, 0.4, 0.6
    assert summarise(values) == (0.6, 0.9, 0.5)  # rounds 20 to 39 hold two measurements
    assert all(math.isnan(value) for value in summarise([np.nan, np.nan]))
    assert all(math.isnan(value) for value in summarise([]))
    early = summarise([0.7] + [np.nan] * 20)
    assert (early.final, early.best) == (0.7, 0.7)
    assert math.isnan(early.last_20_mean)
