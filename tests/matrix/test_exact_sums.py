"""Sums of rows: equal bits under any order and grouping, within the stated error, in machine code as in Python."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysim.matrix import exact_sums
from raysim.matrix.compiled import compiled as machine
from raysim.matrix.exact_sums import (
    ADDED,
    BLOCK,
    add_rows,
    blocks_of,
    constants,
    largest,
    largest_in,
    pre_rounded,
    squared_bounds,
    weighted_bounds,
)

ADVERSARIAL = [
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    1e30,
    -1e30,
    1e-45,
    -1.4e-45,
    1.1754942e-38,
    3.4028235e38,
    1.0,
    -1.0,
    1 / 3,
]
values = st.one_of(
    st.sampled_from(ADVERSARIAL),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-1, 1, width=32),
)
weights = st.one_of(st.floats(-3, 3), st.sampled_from([1e-300, 1e200, -1e200, 1 / 3, 1e-12]))
seeds = st.integers(0, 2**32 - 1)
few, many = (settings(max_examples=count, deadline=None) for count in (20, 100))


@st.composite
def matrices(draw, most_rows=9, most_columns=5):
    """(rows [K, c] float32, weights [K] of which none is 0)."""
    rows, columns = draw(st.integers(1, most_rows)), draw(st.integers(1, most_columns))
    cells = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
    chosen = draw(st.lists(weights.filter(bool), min_size=rows, max_size=rows))
    return np.array(cells, np.float32).reshape(rows, columns), np.array(chosen)


def wide(seed, rows=11, columns=2 * BLOCK + 700):
    """A matrix of several blocks whose columns differ by many powers of ten, and weights."""
    draw = np.random.default_rng(seed)
    scale = 10.0 ** draw.integers(-9, 4, columns)
    return (draw.standard_normal((rows, columns)) * scale).astype(np.float32), draw.standard_normal(rows)


def summed(matrix, weight, constant=None, first=0, centre=None):
    if constant is None:
        maxima = largest(matrix, first)
        bounds = (
            weighted_bounds(weight, maxima)
            if centre is None
            else squared_bounds(weight, maxima, largest(centre[None], first)[0])
        )
        constant = constants(bounds)
    total = np.zeros(matrix.shape[1])
    add_rows(total, [matrix], [np.arange(len(matrix))], [weight], constant, first, centre)
    return total


def bits(total):
    assert total.dtype == np.float64
    return total.view(np.uint64).tolist()


def exact(matrix, weight):
    """sum_i w_i u_ij without any rounding: [c] fractions."""
    return [
        sum(
            (Fraction(float(w)) * Fraction(float(u)) for w, u in zip(weight, column, strict=True)), Fraction()
        )
        for column in matrix.T
    ]


def bound(matrix, weight):
    """What the module's docstring says of the error: a fraction."""
    terms = [
        abs(Fraction(float(w))) * Fraction(float(np.abs(row).max()))
        for w, row in zip(weight, matrix, strict=True)
    ]
    count, every = len(matrix), sum(terms, Fraction())
    rounded = Fraction(102 * count, 100 * 2**53) * max(every, 4 * max(terms))
    return rounded + Fraction(1, 2**53) * every + Fraction(count, 2**1075)


# -- the same bits ---------------------------------------------------------------------------------------


@many
@given(matrices(), st.randoms(use_true_random=False))
def test_any_order_of_the_rows_gives_the_same_bits(case, order):
    matrix, weight = case
    places = list(range(len(matrix)))
    order.shuffle(places)
    assert bits(summed(matrix[places], weight[places])) == bits(summed(matrix, weight))


@few
@given(seeds, st.data())
def test_any_tiles_and_any_grouping_give_the_same_bits(seed, data):
    matrix, weight = wide(seed)
    rows, columns = matrix.shape
    constant = constants(weighted_bounds(weight, largest(matrix)))
    expected = bits(summed(matrix, weight))
    cuts = sorted(data.draw(st.sets(st.integers(1, columns - 1), max_size=4)))
    owner = np.array(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)))
    total = np.zeros(columns)
    for first, last in zip([0, *cuts], [*cuts, columns], strict=True):
        here = constant[first // BLOCK : blocks_of(last)]
        parts = []
        for host in data.draw(st.permutations([0, 1, 2])):
            own = np.flatnonzero(owner == host)
            partial = np.zeros(last - first)
            if len(own):
                half = len(own) // 2  # two tiles of one host, the rows of the second in reverse
                tiles = [
                    np.ascontiguousarray(matrix[own[:half], first:last]),
                    np.ascontiguousarray(matrix[:, first:last]),
                ]
                picked = [np.arange(half), own[half:][::-1]]
                used = [
                    (t, r, weight[w])
                    for t, r, w in zip(tiles, picked, (own[:half], picked[1]), strict=True)
                    if len(r)
                ]
                add_rows(
                    partial, [u[0] for u in used], [u[1] for u in used], [u[2] for u in used], here, first
                )
            parts.append(partial)
        total[first:last] = (parts[0] + parts[1]) + parts[2]
    assert bits(total) == expected


@many
@given(matrices())
def test_the_compiled_loops_do_what_they_do_in_python(case):
    matrix, weight = case
    centre = np.ascontiguousarray(matrix[0].astype(np.float64) / 3)
    rows, weight = exact_sums._filled(np.arange(len(matrix)), weight)
    matrix.flags.writeable = centre.flags.writeable = False
    for loop, more, limits in (
        (exact_sums._add, (), weighted_bounds(weight, largest(matrix)[rows])),
        (
            exact_sums._add_squares,
            (centre,),
            squared_bounds(weight, largest(matrix)[rows], largest(centre[None])[0]),
        ),
    ):
        arguments = (matrix, 0, rows, weight, constants(limits), 0, *more)
        compiled, plain = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1])
        machine(loop, *ADDED, *["numbers" for _ in more])(compiled, *arguments)
        with np.errstate(all="ignore"):
            loop(plain, *arguments)
        assert np.array_equal(compiled, plain, equal_nan=True)


@many
@given(seeds)
def test_numpy_rounds_terms_as_the_loops_do(seed):
    matrix, weight = wide(seed, rows=5)
    constant = constants(weighted_bounds(weight, largest(matrix)))
    terms = pre_rounded(weight[:, None] * matrix.astype(np.float64), constant)
    assert bits(terms.sum(axis=0) + 0.0) == bits(summed(matrix, weight))


def test_a_row_of_weight_zero_leaves_no_trace():
    matrix, weight = wide(0)
    weight[3] = 0
    rest = np.delete(np.arange(len(matrix)), 3)
    assert bits(summed(matrix[rest], weight[rest])) == bits(summed(matrix, weight))


# -- how far from the sum --------------------------------------------------------------------------------


@many
@given(matrices())
def test_the_error_is_within_what_is_stated(case):
    matrix, weight = case
    if np.abs(weight).max() > 1e100 and np.abs(weight).min() < 1e-100:
        weight = np.sign(weight)
    allowed = bound(matrix, weight)
    for found, true in zip(summed(matrix, weight), exact(matrix, weight), strict=True):
        assert abs(Fraction(float(found)) - true) <= allowed


@few
@given(seeds, st.integers(2, 300))
def test_columns_as_large_as_the_block_are_right_to_float32(seed, rows):
    draw = np.random.default_rng(seed)
    matrix = draw.uniform(0.1, 1, (rows, 64)).astype(np.float32)
    weight = draw.uniform(0, 1, rows)
    true = np.array([float(value) for value in exact(matrix, weight)])
    np.testing.assert_allclose(summed(matrix, weight), true, rtol=2.0**-40)  # float32 rounds by up to 2^-24


def test_what_cancels_leaves_zero():
    matrix = np.array([[1e30, 1 / 3, 1e-45], [-1e30, -1 / 3, -1e-45]], np.float32)
    assert bits(summed(matrix, np.ones(2))) == [0, 0, 0]


def test_small_values_beside_large_ones_are_lost_and_stay_in_a_block_of_their_own():
    matrix = np.full((2, 2 * BLOCK), 1e-30, np.float32)
    matrix[0, 0] = 1e30
    total = summed(matrix, np.ones(2)).astype(np.float32)
    assert total[0] == np.float32(1e30)
    assert not total[1:BLOCK].any()
    assert (total[BLOCK:] == np.float32(1e-30) * 2).all()


def test_subnormal_numbers_add_up():
    smallest = np.float32(1.4e-45)
    matrix = np.full((3, 2), smallest, np.float32)
    assert summed(matrix, np.ones(3)).astype(np.float32).tolist() == [3 * float(smallest)] * 2


def test_the_largest_float32_times_many_rows_stays_finite():
    matrix = np.full((64, 1), np.finfo(np.float32).max, np.float32)
    assert summed(matrix, np.full(64, 1e200))[0] == pytest.approx(
        64e200 * float(np.finfo(np.float32).max), rel=1e-13
    )


def test_one_row_alone_is_not_rounded():
    matrix, weight = wide(1, rows=1)
    assert summed(matrix, weight).tolist() == (weight[0] * matrix[0].astype(np.float64)).tolist()


def test_zeros_of_either_sign_sum_to_zero():
    assert bits(summed(np.array([[-0.0, 0.0], [-0.0, -0.0]], np.float32), np.ones(2))) == [0, 0]
    assert bits(summed(np.array([[-0.0]], np.float32), np.ones(1))) == [0]


@many
@given(matrices(most_columns=3), seeds)
def test_squares_about_a_centre(case, seed):
    matrix, _ = case
    matrix = np.clip(matrix, -1e18, 1e18)
    weight = np.random.default_rng(seed).uniform(0.1, 1, len(matrix))
    centre = np.random.default_rng(seed).uniform(-2, 2, matrix.shape[1])
    true = [
        sum(Fraction(float(w)) * (Fraction(float(u)) - Fraction(float(c))) ** 2 for w, u in zip(weight, column, strict=True))
        for column, c in zip(matrix.T, centre, strict=True)
    ]  # fmt: skip
    reach = np.abs(matrix).max(axis=1).astype(float) + np.abs(centre).max()
    allowed = 2.0**-50 * (len(matrix) + 4) * float(weight @ reach**2)
    for found, expected in zip(summed(matrix, weight, centre=centre), true, strict=True):
        assert abs(float(Fraction(float(found)) - expected)) <= allowed


# -- bounds ----------------------------------------------------------------------------------------------


@many
@given(st.lists(st.floats(0, 1e300), min_size=2, max_size=40), st.randoms(use_true_random=False))
def test_the_constant_outweighs_every_term_and_does_not_depend_on_order(bounds, order):
    shuffled = list(bounds)
    order.shuffle(shuffled)
    (c,), (other,) = constants(np.array(bounds)[:, None]), constants(np.array(shuffled)[:, None])
    assert c == other
    assert np.frexp(c)[0] == 0.75
    whole, most = sum(map(Fraction, bounds)), Fraction(max(bounds))
    power = Fraction(float(c)) * Fraction(2, 3)
    assert power >= 2 * most
    assert 2 * power > whole * (1 + Fraction(1, 2**21))
    assert not most or power <= max(4 * most, whole * Fraction(102, 100), Fraction(1, 2**1022))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308])
def test_bounds_out_of_reach_make_the_sums_of_their_block_not_numbers(bad):
    found = constants(np.array([[1.0, bad], [1.0, bad]]))
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_spoil_their_block_alone(bad):
    matrix = np.ones((3, BLOCK + 2), np.float32)
    matrix[1, 5] = bad
    total = summed(matrix, np.ones(3))
    assert np.isnan(total[:BLOCK]).all()
    assert (total[BLOCK:] == 3).all()
    assert np.isnan(summed(matrix[1:2], np.ones(1))[:BLOCK]).all()


def test_more_rows_than_can_be_bounded_are_refused():
    bounds = np.broadcast_to(np.ones(1), (exact_sums.MOST_ROWS + 1, 1))
    with pytest.raises(ValueError, match=f"at most {exact_sums.MOST_ROWS} rows"):
        constants(bounds)


def test_maxima_by_block_however_the_columns_are_cut():
    matrix, _ = wide(2)
    whole = largest(matrix)
    assert whole.shape == (len(matrix), 3)
    for block in range(3):
        np.testing.assert_array_equal(
            whole[:, block], np.abs(matrix[:, block * BLOCK : (block + 1) * BLOCK]).max(1)
        )
    cuts = [0, 17, BLOCK, BLOCK + 1, 2 * BLOCK + 3, matrix.shape[1]]
    parts = [(a, largest(matrix[:, a:b], a)) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(largest_in(parts, matrix.shape[1]), whole)
    assert largest(matrix[:, :0]).shape == (len(matrix), 0)


# -- the compiled loops ----------------------------------------------------------------------------------


def test_arguments_may_be_read_only_as_ray_gives_them():
    matrix, weight = wide(3, rows=8, columns=9)
    constant, places = constants(weighted_bounds(weight, largest(matrix))), np.arange(8)
    expected = summed(matrix, weight)
    for array in (matrix, weight, constant, places):
        array.flags.writeable = False
    total = np.zeros(9)
    add_rows(total, [matrix], [places], [weight], constant)
    assert bits(total) == bits(expected)


@pytest.mark.slow
def test_without_a_folder_for_its_cache_a_process_compiles_for_itself(monkeypatch):
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    machine.cache_clear()
    try:
        assert summed(np.ones((2, 3), np.float32), np.ones(2)).tolist() == [2, 2, 2]
    finally:
        machine.cache_clear()
