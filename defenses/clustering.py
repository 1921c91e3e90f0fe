"""Exact 2-means in one dimension, for many columns at once."""

from __future__ import annotations

import numpy as np


def two_means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split each column of values [K, m], K >= 2, into two clusters of least within-cluster sum of squares.

    Returns (above [K, m] bool: in the cluster of the larger values, low [m], high [m]: the two centres, float64).
    In one dimension the optimum cuts the sorted values in two, so trying the K - 1 cuts finds it: O(m K log K).
    Equal values are never parted; a column of equal values has nothing above. Ties: the lowest cut.
    """
    count = len(values)
    mean = values.mean(axis=0, dtype=np.float64)
    ordered = np.sort(values, axis=0) - mean
    left = np.cumsum(ordered, axis=0)[:-1]
    size = np.arange(1, count)[:, None]
    # The sum of squares between clusters, from the sum of the `size` smallest centred values.
    cut = np.argmax(left**2 * (1 / size + 1 / (count - size)), axis=0)
    columns = np.arange(values.shape[1])
    above = (values - mean) > ordered[cut, columns]
    number = above.sum(axis=0)
    low = np.where(above, 0.0, values).sum(axis=0, dtype=np.float64) / (count - number)
    high = np.where(above, values, 0.0).sum(axis=0, dtype=np.float64) / np.maximum(number, 1)
    return above, low, np.where(number > 0, high, low)


def within_sums(values: np.ndarray, max_clusters: int) -> np.ndarray:
    """W_1 .. W_max: the least within-cluster sums of squares of k-means on values [n], exactly, float64.

    Dynamic programming over the sorted values: the last of k clusters starts where its cost and that of the best
    k - 1 clusters before it sum to least. O(max n^2) time, O(n^2) memory.
    """
    ordered = np.sort(np.asarray(values, np.float64) - np.mean(values))
    count = len(ordered)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])
    first, last = np.arange(count)[:, None], np.arange(1, count + 1)
    size = np.maximum(last - first, 1)
    cost = squares[1:] - squares[:-1, None] - (sums[1:] - sums[:-1, None]) ** 2 / size
    cost = np.where(last > first, np.maximum(cost, 0.0), np.inf)  # [i, j]: values i .. j - 1 in one cluster
    best = cost[0]
    answers = [best[-1]]
    for _ in range(1, max_clusters):
        before = np.concatenate([[0.0], best[:-1]])  # an empty cluster in front costs nothing
        best = (before[:, None] + cost).min(axis=0)
        answers.append(best[-1])
    return np.array(answers)


def gap_clusters(
    values: np.ndarray,
    generator: np.random.Generator,
    *,
    max_clusters: int = 7,
    references: int = 10,
    log_of_mean: bool = False,
) -> int:
    """How many clusters values [n] fall into by the gap statistic (Tibshirani, Walther and Hastie, 2001).

    The least k < max_clusters with Gap(k) >= Gap(k + 1) - s_(k + 1), where Gap(k) is the mean of log W_k over
    `references` uniform samples of n points on the values' range, minus log W_k. log_of_mean: the log of the mean
    instead (FLDetector's code). 1 for equal values or fewer than 3; k never exceeds the number of distinct values.
    """
    distinct = len(np.unique(values))
    if distinct < 2 or len(values) < 3:
        return 1
    scaled = (values - np.min(values)) / np.ptp(values)
    limit = min(max_clusters, len(values) - 1)
    floor = len(values) * np.finfo(np.float64).eps ** 2  # duplicates leave W = 0, whose log must stay finite
    draws = generator.uniform(size=(references, len(values)))
    sampled = np.maximum([within_sums(draw, limit) for draw in draws], floor)
    expected = np.log(sampled.mean(axis=0)) if log_of_mean else np.log(sampled).mean(axis=0)
    gaps = expected - np.log(np.maximum(within_sums(scaled, limit), floor))
    error = np.log(sampled).std(axis=0) * np.sqrt(1 + 1 / references)
    enough = np.flatnonzero(gaps[:-1] >= gaps[1:] - error[1:])
    return min(int(enough[0]) + 1 if len(enough) else limit, distinct)
