from __future__ import annotations

import numpy as np
import pytest

from defenses.alignins import AlignIns, mz_scores
from tests.defenses.conftest import build_context, build_updates


def judge(defense: AlignIns, rows, global_vector, **tiling):
    updates = build_updates(rows, **tiling)
    context = build_context(updates, global_vector=np.asarray(global_vector, np.float32))
    return defense.apply({}, updates, context)[0]


ROWS = [[3.0, 1.0, 0.0, 0.0], [6.0, 2.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0], [-3.0, 1.0, 0.0, 0.0]]


def test_by_hand():
    # The principal signs are (1, 1, 0, 0). Half of the entries are compared, the two largest: three rows agree in both,
    # the last one in one. Shares 1, 1, 1, .5 have median 1 and standard deviation sqrt(3) / 8, so that the last is
    # 4 / sqrt(3) = 2.31 away. Cosines to (1, 0, 0, 0) are +-3 / sqrt(10): the last is twice that away, in deviations of
    # sqrt(3) / 2 of it.
    verdict = judge(AlignIns(top_share=0.5), ROWS, [1.0, 0, 0, 0])
    np.testing.assert_allclose(verdict.scores, [0, 0, 0, 4 / np.sqrt(3)], atol=1e-12)
    assert verdict.flagged.tolist() == [False, False, False, True]
    np.testing.assert_allclose(verdict.weights, [1 / 3, 1 / 3, 1 / 3, 0])
    # The median norm of the accepted is sqrt(10), to which the second is clipped.
    np.testing.assert_allclose(verdict.aggregate, [3, 1, 0, 0], rtol=1e-6)


def test_signs_alone_and_direction_alone():
    # Without a global model all cosines are 0, and signs decide.
    verdict = judge(AlignIns(top_share=0.5), ROWS, [0.0, 0, 0, 0])
    np.testing.assert_allclose(verdict.scores, [0, 0, 0, 4 / np.sqrt(3)], atol=1e-12)
    # The largest entry alone of these agrees in sign everywhere, and the direction decides.
    rows = [[3.0, 0.1], [3.0, 0.2], [3.0, 0.1], [3.0, -2.9]]
    verdict = judge(AlignIns(top_share=0.5), rows, [0.0, 1.0])
    cosines = np.array([row[1] / np.hypot(*row) for row in rows])
    np.testing.assert_allclose(verdict.scores, mz_scores(cosines), rtol=1e-6)
    assert verdict.flagged.tolist() == [False, False, False, True]


def test_radii():
    tight = judge(AlignIns(top_share=0.5, sign_radius=2.4, direction_radius=2.4), ROWS, [1.0, 0, 0, 0])
    assert not tight.flagged.any()
    assert tight.threshold == 1.0


@pytest.mark.parametrize("tiling", [{}, {"rows_per_block": 2, "bounds": (0, 7, 30, 40)}])
def test_against_the_definition(tiling):
    draw = np.random.default_rng(4)
    rows = (draw.standard_normal(40) + draw.standard_normal((9, 40))).astype(np.float32)
    rows[-1] *= -1
    reference = draw.standard_normal(40).astype(np.float32)
    verdict = judge(AlignIns(), rows, reference, **tiling)
    principal = np.sign(np.sign(rows).sum(axis=0))
    alignments, agreements = [], []
    for row in rows:
        top = np.argsort(-np.abs(row), kind="stable")[:12]
        agreements.append(np.mean(np.sign(row[top]) == principal[top]))
        alignments.append(row @ reference / np.linalg.norm(row) / np.linalg.norm(reference))
    expected = np.maximum(mz_scores(np.array(alignments)), mz_scores(np.array(agreements)))
    np.testing.assert_allclose(verdict.scores, expected, rtol=1e-5)
    kept = rows[expected <= 1]
    norms = np.linalg.norm(kept, axis=1)
    clipped = kept * np.minimum(1, np.median(norms) / norms)[:, None]
    np.testing.assert_allclose(verdict.aggregate, clipped.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_of_equal_entries_the_first_count():
    # One of two entries of length 1 is compared: the first, on which the rows differ.
    verdict = judge(
        AlignIns(top_share=0.5, sign_radius=10), [[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]], [0.0, 0.0]
    )
    np.testing.assert_allclose(verdict.scores, np.array([0, 0, 1 / np.std([1, 1, 0])]) / 10)
