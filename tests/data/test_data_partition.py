import numpy as np
import pytest

from raysim.data.assignment import NOBODY, Partition, from_owners
from raysim.data.partition import IID, PARTITIONS, LogNormal, Natural
from raysim.errors import ConfigError

LABELS = np.repeat(np.arange(10, dtype=np.int64), 50)
OWNERS = np.arange(500, dtype=np.int64) % 20


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_lists(partition: Partition) -> list[list[int]]:
    return [partition.of(client).tolist() for client in range(partition.num_clients)]


def test_compressed_rows_by_hand():
    partition = from_owners(np.array([2, 0, NOBODY, 2, 0]), 4)
    assert as_lists(partition) == [[1, 4], [], [0, 3], []]
    assert partition.num_clients == 4
    assert partition.sizes.tolist() == [2, 0, 2, 0]
    assert partition.indices.dtype == np.int32
    assert partition.offsets.dtype == np.int64
    for client in (-1, 4):
        with pytest.raises(IndexError):
            partition.of(client)


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_contract(name: str):
    method = PARTITIONS[name]()
    labels, owners = LABELS.copy(), OWNERS.copy()
    partition = method.split(labels, 20, rng(), owners)
    assert partition.num_clients == 20
    assert partition.sizes.sum() == len(partition.indices)
    assert partition.sizes.min() >= 1
    assert partition.indices.dtype == np.int32
    for indices in as_lists(partition):
        assert indices == sorted(set(indices))
    assert len(np.unique(partition.indices)) == len(partition.indices)
    assert 0 <= partition.indices.min() <= partition.indices.max() < len(labels)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(owners, OWNERS)

    again = method.split(labels, 20, rng(), owners)
    np.testing.assert_array_equal(again.indices, partition.indices)
    np.testing.assert_array_equal(again.offsets, partition.offsets)
    if name != "natural":
        other = method.split(labels, 20, rng(1), owners)
        assert as_lists(other) != as_lists(partition)


@pytest.mark.parametrize("name", sorted(PARTITIONS))
@pytest.mark.parametrize("num_clients", [0, 501])
def test_impossible_numbers_of_clients_are_refused_before_drawing(name: str, num_clients: int):
    generator = rng()
    with pytest.raises(ConfigError, match="num_clients"):
        PARTITIONS[name]().split(LABELS, num_clients, generator, OWNERS)
    assert generator.bit_generator.state == rng().bit_generator.state


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_the_first_docstring_line_stands_alone(name: str):
    first = (PARTITIONS[name].__doc__ or "").splitlines()[0]
    assert first.endswith((".", ":"))
    assert 20 < len(first) < 120


def test_iid_deals_everything_evenly():
    partition = IID().split(LABELS[:103], 10, rng())
    assert partition.sizes.tolist() == [11] * 3 + [10] * 7
    assert sorted(partition.indices) == list(range(103))


def test_iid_can_drop_the_remainder():
    partition = IID(remainder="drop").split(LABELS[:109], 10, rng())
    assert partition.sizes.tolist() == [10] * 10
    assert len(np.unique(partition.indices)) == 100


def test_iid_ignores_labels():
    counts = np.zeros((10, 10))
    for seed in range(200):
        partition = IID().split(LABELS, 10, rng(seed))
        for client in range(10):
            counts[client] += np.bincount(LABELS[partition.of(client)], minlength=10)
    # 200 x 50 samples a client, a tenth of each class: 1000, standard deviation below 29
    assert np.abs(counts - 1000).max() < 150


@pytest.mark.parametrize("num_clients", [1, 7, 50])
def test_samples_per_client_is_disjoint_while_the_data_suffice(num_clients: int):
    partition = IID(samples_per_client=10).split(LABELS, num_clients, rng())
    assert partition.sizes.tolist() == [10] * num_clients
    assert len(np.unique(partition.indices)) == 10 * num_clients


def test_samples_per_client_overlaps_between_passes_only():
    partition = IID(samples_per_client=30).split(LABELS[:100], 10, rng())
    hands = partition.indices.reshape(10, 30)
    for hand in hands:
        assert len(set(hand)) == 30
    for start in (0, 3, 6):  # three hands of 30 make a pass over 100 samples
        assert len(np.unique(hands[start : start + 3])) == 90
    assert len(np.unique(hands)) > 90


def test_samples_per_client_draws_every_pair_equally_often():
    hands = IID(samples_per_client=2).split(LABELS[:5], 20_000, rng()).indices.reshape(-1, 2)
    pairs, counts = np.unique(hands, axis=0, return_counts=True)
    assert len(pairs) == 10
    # 2000 each, standard deviation 42
    assert np.abs(counts - 2000).max() < 220


def test_populations_larger_than_the_data():
    partition = IID(samples_per_client=10).split(LABELS, 100_000, rng())
    assert partition.num_clients == 100_000
    assert partition.indices.nbytes == 4_000_000
    hands = partition.indices.reshape(-1, 10)
    assert (np.diff(hands, axis=1) > 0).all()
    counts = np.bincount(partition.indices, minlength=500)
    assert counts.tolist() == [2000] * 500  # ten divides the data: every pass uses every sample


def test_samples_per_client_equal_to_the_data_gives_everybody_everything():
    partition = IID(samples_per_client=4).split(LABELS[:4], 3, rng())
    assert as_lists(partition) == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"samples_per_client": 0},
        {"samples_per_client": 2.0},
        {"remainder": "dropp"},
        {"samples_per_client": 5, "remainder": "drop"},
    ],
)
def test_iid_refuses_wrong_options(options: dict):
    with pytest.raises(ConfigError):
        IID(**options)


def test_more_samples_per_client_than_there_are():
    with pytest.raises(ConfigError) as caught:
        IID(samples_per_client=6).split(LABELS[:5], 2, rng())
    assert (caught.value.key, caught.value.nearest) == ("samples_per_client", 5)


def test_natural_gives_each_owner_a_client_in_order():
    owners = np.array([7, 2, 7, 30, 2, 7])
    labels = np.zeros(6, np.int64)
    assert as_lists(Natural().split(labels, 3, rng(), owners)) == [[1, 4], [0, 2, 5], [3]]
    assert as_lists(Natural().split(labels, 2, rng(), owners)) == [[1, 4], [0, 2, 5]]


def test_natural_subsets_keep_owners_whole_and_use_all():
    partition = Natural(subsets=True).split(LABELS, 6, rng(), OWNERS)
    held = [set(OWNERS[partition.of(client)].tolist()) for client in range(6)]
    assert sorted(len(owners) for owners in held) == [3, 3, 3, 3, 4, 4]
    assert sum(len(owners) for owners in held) == len(set.union(*held)) == 20
    assert len(partition.indices) == 500


def test_natural_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="owner"):
        Natural().split(LABELS, 3, rng())
    with pytest.raises(ConfigError, match="one for each of the 500"):
        Natural().split(LABELS, 3, rng(), OWNERS[:10])
    with pytest.raises(ConfigError) as caught:
        Natural().split(LABELS, 21, rng(), OWNERS)
    assert caught.value.nearest == 20


def test_log_normal_sizes_by_hand():
    """7 samples beside one each: exp(z) as drawn, rounded down, and the rest to the largest remainders."""
    labels = np.zeros(10, np.int64)
    z = rng().standard_normal(3)
    wanted = np.exp(z) / np.exp(z).sum() * 7
    sizes = 1 + np.floor(wanted)
    for _ in range(int(10 - sizes.sum())):
        sizes[np.argmax(wanted - (sizes - 1))] += 1
    assert LogNormal().split(labels, 3, rng()).sizes.tolist() == sizes.tolist()


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_logarithms_of_log_normal_sizes_have_the_deviation_that_was_asked(sigma: float):
    sizes = LogNormal(sigma).split(np.zeros(2_000_000, np.int64), 2000, rng()).sizes
    assert sizes.sum() == 2_000_000
    large = np.log(sizes[sizes > 20] - 1.0)  # rounding matters little there
    expected = np.log(np.exp(sigma * rng().standard_normal(2000)))
    assert np.corrcoef(np.sort(large), np.sort(expected)[-len(large) :])[0, 1] > 0.999
    assert np.polyfit(np.sort(expected)[-len(large) :], np.sort(large), 1)[0] == pytest.approx(1, abs=0.02)


def test_even_an_extreme_deviation_leaves_everybody_a_sample():
    sizes = LogNormal(1e6).split(np.zeros(100, np.int64), 10, rng()).sizes
    assert sizes.sum() == 100
    assert sizes.min() == 1
    assert sizes.max() == 91
