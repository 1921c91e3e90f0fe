"""Growth exponents, speed-up, ratios to the limits and digests, on numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from raysim.studies.fit import power_law
from raysim.studies.scaling.fit import (
    digest_mismatches,
    growth,
    limit_ratio,
    shares,
    strong_scaling,
    weak_scaling,
)
from raysim.studies.scaling.read import MatrixSize, Measured, Setup
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.stages import WHOLE

SETUP = Setup("raylets", 1, "", "ray", "synthetic")


def entry(
    size: MatrixSize,
    seconds: Sequence[float],
    *,
    stage: str = WHOLE,
    defense: str = "krum",
    runs: Sequence[tuple[int, int]] | None = None,
    digests: Sequence[str] = (),
) -> Measured:
    count = len(seconds)
    return Measured(
        setup=SETUP,
        defense=defense,
        stage=stage,
        size=size,
        model="leaf_cnn",
        order=-1,
        runs=tuple(runs or [(0, repeat) for repeat in range(count)]),
        started_s=np.zeros(count),
        wall_s=np.array(seconds, np.float64),
        bytes_moved=np.zeros(count, np.int64),
        tasks=1,
        nodes_used=1,
        peak_memory_bytes=0,
        spilled_bytes=0,
        digests=tuple(digests or [""] * count),
    )


def test_an_exact_power_law_is_found_without_doubt():
    law = power_law([24, 48, 100, 400], [np.array([3e-4 * K**2.0] * 3) for K in (24, 48, 100, 400)])
    assert law is not None
    assert (law.exponent, law.low, law.high) == pytest.approx((2.0, 2.0, 2.0), abs=1e-9)
    assert law.coefficient == pytest.approx(3e-4)
    assert law.largest_deviation == pytest.approx(0.0, abs=1e-12)
    assert law.last_exponent == pytest.approx(2.0)
    assert (law.points, law.smallest, law.largest) == (4, 24, 400)


def test_constant_seconds_do_not_grow():
    law = power_law([10, 20, 40], [np.array([0.5])] * 3)
    assert law is not None
    assert (law.exponent, law.low, law.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_the_interval_and_the_deviations_are_those_of_the_medians():
    # log10: x = 1, 2, 3 and y = 0, 1 + e, 2 with e = log10(2). Slope 1, residuals -e/3, 2e/3, -e/3, one degree of
    # freedom, standard error e / sqrt(3), t = 12.7062. The outlier of the first size does not move its median.
    e = math.log10(2)
    law = power_law([100, 10, 1000], [np.array([20.0]), np.array([1.0, 1.0, 50.0]), np.array([100.0])])
    assert law is not None
    assert law.exponent == pytest.approx(1.0)
    half = 12.7062047 * e / math.sqrt(3)
    assert (law.low, law.high) == pytest.approx((1 - half, 1 + half))
    assert law.largest_deviation == pytest.approx(2 ** (2 / 3) - 1)
    assert law.last_exponent == pytest.approx(math.log10(5))


def test_a_constant_beside_the_growth_shows_in_the_last_step():
    sizes = (10, 100, 1000)
    law = power_law(sizes, [np.array([1.0 + 1e-3 * K]) for K in sizes])
    assert law is not None
    assert law.last_exponent == pytest.approx(math.log10(2.0 / 1.1))
    assert law.exponent == pytest.approx(math.log10(2.0 / 1.01) / 2)
    assert law.largest_deviation > 0.1


@pytest.mark.parametrize(
    ("sizes", "seconds"), [((10, 20), (1.0, 2.0)), ((10, 20, 40), (0.0, 1.0, 2.0)), ((), ())]
)
def test_fewer_than_three_sizes_give_no_law(sizes: tuple[int, ...], seconds: tuple[float, ...]):
    assert power_law(sizes, [np.array([value]) for value in seconds]) is None


def test_growth_is_fitted_along_one_size_with_the_others_fixed():
    measured = [
        entry(MatrixSize(K, d, n), [1e-6 * K**2 * d / n], stage="gram")
        for K in (10, 20, 40)
        for d in (100, 1000)
        for n in (1, 2)
    ]
    measured.append(entry(MatrixSize(10, 10_000, 1), [1e-6 * 100 * 10_000], stage="gram"))
    in_clients = growth(measured, "clients")
    assert [(g.clients, g.parameters, g.nodes) for g in in_clients] == [
        *((0, 100, 1), (0, 100, 2), (0, 1000, 1), (0, 1000, 2)),
    ]
    assert [g.law.exponent for g in in_clients] == pytest.approx([2.0] * 4)
    (in_parameters,) = growth(measured, "parameters")
    assert (in_parameters.clients, in_parameters.parameters, in_parameters.nodes) == (10, 0, 1)
    assert in_parameters.law.exponent == pytest.approx(1.0)
    row = in_parameters.row()
    assert (row["stage"], row["along"], row["kind"], row["points"]) == ("gram", "parameters", "raylets", 3)


def test_strong_scaling_compares_with_the_fewest_nodes():
    whole = {
        MatrixSize(10, 5, 1): entry(MatrixSize(10, 5, 1), [8.0, 9.0, 10.0]),
        MatrixSize(10, 5, 2): entry(MatrixSize(10, 5, 2), [5.0, 6.0, 7.0]),
        MatrixSize(10, 5, 4): entry(MatrixSize(10, 5, 4), [3.0]),
        MatrixSize(20, 5, 2): entry(MatrixSize(20, 5, 2), [1.0]),
    }
    two, four = strong_scaling(whole)
    assert (two.size.nodes, two.base, two.speed_up.value, two.efficiency) == (2, 1, 1.5, 0.75)
    assert (two.speed_up.low, two.speed_up.high) == pytest.approx((8.5 / 6.5, 9.5 / 5.5))
    assert (four.size.nodes, four.speed_up.value, four.efficiency) == (4, 3.0, 0.75)


def test_weak_scaling_needs_the_share_of_clients_on_one_node():
    sizes = {
        MatrixSize(10, 5, 1): 2.0,
        MatrixSize(20, 5, 2): 2.5,
        MatrixSize(21, 5, 2): 1.0,
        MatrixSize(40, 5, 2): 9.0,
    }
    (found,) = weak_scaling({size: entry(size, [seconds]) for size, seconds in sizes.items()})
    assert found.size == MatrixSize(20, 5, 2)
    assert found.efficiency.value == pytest.approx(0.8)


def test_limits_are_compared_repeat_by_repeat():
    size = MatrixSize(10, 5, 1)
    whole = entry(size, [2.0, 8.0, 5.0])
    slow_in_one = entry(size, [4.0, 1.0, 7.0], stage="gram", defense=LIMITS, runs=[(0, 1), (0, 0), (1, 2)])
    ratio = limit_ratio(whole, slow_in_one)  # 2 / 1 and 8 / 4; the third repeat has no limit of its seed
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert limit_ratio(whole, None) is None
    assert limit_ratio(whole, entry(size, [1.0], runs=[(9, 9)])) is None


def test_shares_add_up():
    size = MatrixSize(10, 5, 1)
    parts = [entry(size, [1.0, 1.0, 9.0], stage="gram"), entry(size, [2.0, 3.0, 4.0], stage="combine")]
    assert shares(parts) == [0.25, 0.75]


def test_digests_that_differ_are_named():
    one, two = MatrixSize(10, 5, 1), MatrixSize(10, 5, 2)
    measured = [
        entry(one, [1.0, 1.0], digests=["aa", "aa"]),
        entry(two, [1.0, 1.0], digests=["aa", "bb"]),
        entry(one, [1.0, 1.0], defense="median", digests=["cc", "cc"]),
        entry(one, [1.0], defense="rfa", digests=["dd"]),
        entry(one, [1.0, 1.0], stage="gram", digests=["ee", "ff"]),
    ]
    (found,), compared = digest_mismatches(measured)
    assert compared == 2
    assert (found.defense, found.clients, found.parameters, found.seed) == ("krum", 10, 5, 0)
    assert found.found == {"aa": ((1, 0), (1, 1), (2, 0)), "bb": ((2, 1),)}


def test_other_seeds_are_other_matrices():
    runs = [(0, 0), (1, 0)]
    measured = [entry(MatrixSize(10, 5, 1), [1.0, 1.0], runs=runs, digests=["aa", "bb"])]
    assert digest_mismatches(measured) == ([], 0)
