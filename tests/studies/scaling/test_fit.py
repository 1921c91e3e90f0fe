"""Growth exponents, speed-up, ratios to the limits and digests, on numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from raysim.studies.fit import power_law
from raysim.studies.scaling.page import growth_table
from raysim.studies.scaling.read import (
    MatrixSize,
    Measured,
    OneMatrix,
    digest_mismatches,
    laws,
    shares,
    strong_scaling,
    weak_scaling,
)
from raysim.studies.stages import WHOLE
from raysim.studies.table import Values


def entry(
    size: MatrixSize,
    seconds: Sequence[float],
    *,
    stage: str = WHOLE,
    defense: str = "krum",
    repeats: Sequence[int] | None = None,
    digests: Sequence[str] = (),
) -> Measured:
    count = len(seconds)
    return Measured(
        defense=defense,
        stage=stage,
        size=size,
        order=-1,
        repeats=tuple(repeats or range(count)),
        wall_s=Values.of(seconds),
        moved_bytes=Values.of([0.0] * count),
        returned_bytes=Values.of([0.0] * count),
        to_disk_bytes=Values.of([0.0] * count),
        from_disk_bytes=Values.of([0.0] * count),
        busy=Values.of([1.0] * count),
        link_s=Values.of([0.0] * count),
        bits_per_s=math.inf,
        workers=1,
        cores=1,
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
    in_clients = laws(measured, "clients")
    assert [tuple(size) for _, _, size in in_clients] == [
        *((0, 100, 1), (0, 100, 2), (0, 1000, 1), (0, 1000, 2)),
    ]
    assert [law.exponent for law in in_clients.values()] == pytest.approx([2.0] * 4)
    ((where, law),) = laws(measured, "parameters").items()
    assert where == ("krum", "gram", MatrixSize(10, 0, 1))
    assert law.exponent == pytest.approx(1.0)
    views = [
        OneMatrix(
            "", "", "", d, {(m.defense, m.stage, m.size): m for m in measured if m.size.parameters == d}
        )
        for d in (100, 1000, 10_000)
    ]
    rows = growth_table(views).to_pylist()
    assert [(row["along"], row["stage"], row["points"]) for row in rows] == [
        *[("clients", "gram", 3)] * 4,
        ("parameters", "gram", 3),
    ]


def test_strong_scaling_compares_with_the_fewest_nodes():
    whole = {
        MatrixSize(10, 5, 1): entry(MatrixSize(10, 5, 1), [8.0, 9.0, 10.0]),
        MatrixSize(10, 5, 2): entry(MatrixSize(10, 5, 2), [5.0, 6.0, 7.0]),
        MatrixSize(10, 5, 4): entry(MatrixSize(10, 5, 4), [3.0]),
        MatrixSize(20, 5, 2): entry(MatrixSize(20, 5, 2), [1.0]),
    }
    found = strong_scaling(whole)
    (base, two), (_, four) = found.values()
    assert [size.nodes for size in found] == [2, 4]
    assert (base, two.value) == (1, 1.5)
    assert (two.low, two.high) == pytest.approx((8.5 / 6.5, 9.5 / 5.5))
    assert four.value == 3.0


def test_weak_scaling_needs_the_share_of_clients_on_one_node():
    sizes = {
        MatrixSize(10, 5, 1): 2.0,
        MatrixSize(20, 5, 2): 2.5,
        MatrixSize(21, 5, 2): 1.0,
        MatrixSize(40, 5, 2): 9.0,
    }
    ((size, found),) = weak_scaling({size: entry(size, [seconds]) for size, seconds in sizes.items()}).items()
    assert size == MatrixSize(20, 5, 2)
    assert found.value == pytest.approx(0.8)


def test_limits_are_compared_repeat_by_repeat():
    size = MatrixSize(10, 5, 1)
    whole = entry(size, [2.0, 8.0, 5.0])
    slow_in_one = entry(size, [4.0, 1.0, 7.0], stage="gram", repeats=[1, 0, 9])
    ratio = whole.over(slow_in_one)  # 2 / 1 and 8 / 4; the third repeat has no limit of its own
    assert ratio is not None
    assert ratio.all.tolist() == [2.0, 2.0]
    assert whole.over(None) is None
    assert whole.over(entry(size, [1.0], repeats=[9])) is None


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
    different, compared = digest_mismatches(measured)
    assert compared == 2
    assert different == {
        ("krum", MatrixSize(10, 5, 0)): {"aa": [(1, 0), (1, 1), (2, 0)], "bb": [(2, 1)]},
    }
