import numpy as np
import pytest

from raysim.data.assignment import Partition
from raysim.data.label_skew import ClassesPerClient, DBADirichlet, Dirichlet, PhiGroups
from raysim.errors import ConfigError

LABELS = np.random.default_rng(9).permutation(np.repeat(np.arange(10, dtype=np.int64), 100))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def class_counts(partition: Partition, labels: np.ndarray) -> np.ndarray:
    """[clients, classes]."""
    classes = labels.max() + 1
    return np.stack(
        [
            np.bincount(labels[partition.of(client)], minlength=classes)
            for client in range(partition.num_clients)
        ]
    )


class Scripted(np.random.Generator):
    """A generator whose Dirichlet draws are given; permutations keep the order."""

    def __init__(self, *draws: list[float]) -> None:
        super().__init__(np.random.PCG64(0))
        self.draws = list(draws)
        self.alphas: list[np.ndarray] = []

    def dirichlet(self, alpha, size=None):
        self.alphas.append(alpha)
        if size is None:
            return np.array(self.draws.pop(0))
        return np.array([self.draws.pop(0) for _ in range(size)])

    def permutation(self, x, axis=0):
        return np.array(x)


def test_dirichlet_by_hand():
    labels = np.array([0] * 10 + [1] * 10)
    # class 0: cut at floor([7.5, 9.5, 10]) -> 7, 2, 1; client 0 holds 7 >= 20/3, so its .8 of class 1 is
    # dropped and (.1, .1) become (.5, .5): 5 and 5
    script = Scripted([0.75, 0.2, 0.05], [0.8, 0.1, 0.1])
    partition = Dirichlet(alpha=0.3, min_samples=1).split(labels, 3, script)
    assert class_counts(partition, labels).tolist() == [[7, 0], [2, 5], [1, 5]]
    assert partition.of(1).tolist() == [7, 8, 10, 11, 12, 13, 14]
    np.testing.assert_array_equal(script.alphas[0], [0.3, 0.3, 0.3])


def test_dirichlet_repeats_the_whole_draw_until_all_are_served():
    labels = np.array([0] * 4 + [1] * 4)
    script = Scripted([1.0, 0.0], [1.0, 0.0], [0.25, 0.75], [0.5, 0.5])
    partition = Dirichlet(min_samples=3).split(labels, 2, script)
    # first draw: client 0 takes class 0, is full, class 1 has only its zeroed share and is dealt uniformly: 6, 2
    assert script.draws == []
    assert class_counts(partition, labels).tolist() == [[1, 2], [3, 2]]


def test_dirichlet_deals_uniformly_where_only_full_clients_have_shares():
    labels = np.array([0] * 4 + [1] * 4)
    partition = Dirichlet(min_samples=1).split(labels, 2, Scripted([1.0, 0.0], [1.0, 0.0]))
    assert class_counts(partition, labels).tolist() == [[4, 2], [0, 2]]


def test_dirichlet_deals_everything_and_honours_the_minimum():
    partition = Dirichlet(alpha=0.3, min_samples=30).split(LABELS, 15, rng())
    assert sorted(partition.indices) == list(range(1000))
    assert partition.sizes.min() >= 30


def test_a_small_alpha_is_more_heterogeneous():
    def dominance(alpha: float) -> float:
        counts = class_counts(Dirichlet(alpha, min_samples=1).split(LABELS, 10, rng()), LABELS)
        return float((counts.max(axis=1) / counts.sum(axis=1)).mean())

    assert dominance(0.05) > 0.5 > dominance(0.5) > dominance(1000.0)
    assert dominance(1000.0) < 0.13


def test_dirichlet_refuses_impossible_demands_before_drawing():
    script = Scripted()
    with pytest.raises(ConfigError) as caught:
        Dirichlet(min_samples=11).split(LABELS, 100, script)
    assert (caught.value.key, caught.value.nearest) == ("num_clients", 90)


def test_dirichlet_gives_up_after_its_retries():
    with pytest.raises(ConfigError, match="no draw of 6") as caught:
        Dirichlet(alpha=0.01, min_samples=100, max_retries=5).split(LABELS, 10, rng())
    assert caught.value.key == "min_samples"


def test_dba_by_hand():
    labels = np.array([0] * 10 + [1] * 4 + [2] * 12)
    # counts are round(q * 10): (4, 4, 3) of class 0 leave 2 for the last; (5, 3, 2) of class 1's four: 4, 0, 0;
    # (1, 2, 6) of class 2 leave three samples to nobody
    script = Scripted([0.36, 0.36, 0.28], [0.5, 0.3, 0.2], [0.12, 0.24, 0.64])
    partition = DBADirichlet().split(labels, 3, script)
    assert class_counts(partition, labels).tolist() == [[4, 4, 1], [4, 0, 2], [2, 0, 6]]
    assert len(partition.indices) == 23


def test_dba_accepts_empty_clients_only_when_told():
    labels = np.zeros(10, np.int64)
    draws = ([1.0, 0.0], [0.5, 0.5])
    assert DBADirichlet(min_samples=0).split(labels, 2, Scripted(*draws)).sizes.tolist() == [10, 0]
    assert DBADirichlet().split(labels, 2, Scripted(*draws)).sizes.tolist() == [5, 5]


@pytest.mark.parametrize("method", [Dirichlet, DBADirichlet])
@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": -1}, {"min_samples": -1}, {"max_retries": 1.5}])
def test_dirichlet_options_are_checked(method: type, options: dict):
    with pytest.raises(ConfigError) as caught:
        method(**options)
    assert caught.value.key in options


@pytest.mark.parametrize("phi", [0.0, 0.3, 1.0])
def test_phi_of_each_class_goes_to_one_group(phi: float):
    partition = PhiGroups(phi).split(LABELS, 20, rng())
    assert sorted(partition.indices) == list(range(1000))
    assert partition.sizes.tolist() == [50] * 20
    counts = class_counts(partition, LABELS)
    own = np.sort(counts, axis=1)[:, -1]
    # each group has 2 clients, the rest of every class is spread over 20
    expected = 50 * phi + (1 - phi) * 5
    assert abs(own.mean() - expected) < 4
    if phi == 1:
        assert own.tolist() == [50] * 20
        assert np.bincount(counts.argmax(axis=1)).tolist() == [2] * 10


def test_phi_zero_is_iid_or_not_by_the_reading_of_the_rest():
    labels = np.repeat(np.arange(4), 100)
    others = class_counts(PhiGroups(0, rest="others").split(labels, 4, rng()), labels)
    assert sorted(others.argmin(axis=1)) == [0, 1, 2, 3]
    assert np.sort(others, axis=0).T.tolist() == [[0, 33, 33, 34]] * 4
    every = class_counts(PhiGroups(0).split(labels, 4, rng()), labels)
    assert every.min() > 10
    assert every.sum(axis=1).tolist() == [100] * 4


def test_phi_of_the_code_is_a_dirichlet_parameter():
    phi = PhiGroups(0.7, variant="code").split(LABELS, 10, rng())
    dirichlet = Dirichlet(0.7).split(LABELS, 10, rng())
    np.testing.assert_array_equal(phi.indices, dirichlet.indices)
    np.testing.assert_array_equal(phi.offsets, dirichlet.offsets)
    assert PhiGroups(0, variant="code").split(LABELS, 10, rng()).sizes.tolist() == [100] * 10


def test_phi_groups_refuses():
    for options in ({"phi": 1.1}, {"variant": "papr"}, {"rest": "al"}, {"variant": "code", "rest": "others"}):
        with pytest.raises(ConfigError):
            PhiGroups(**options)
    with pytest.raises(ConfigError, match="one client for each class"):
        PhiGroups(0.5).split(LABELS, 9, rng())
    with pytest.raises(ConfigError, match="without samples"):
        PhiGroups(1.0).split(np.array([0] * 9 + [1]), 6, rng())


@pytest.mark.parametrize(("num_clients", "each"), [(10, 1), (5, 2), (20, 2), (33, 3), (7, 9), (100, 9)])
def test_each_client_has_exactly_so_many_classes_and_equal_size(num_clients: int, each: int):
    partition = ClassesPerClient(each).split(LABELS, num_clients, rng())
    counts = class_counts(partition, LABELS)
    assert (counts > 0).sum(axis=1).tolist() == [each] * num_clients
    assert len(set(counts[counts > 0].tolist())) == 1
    assert len(np.unique(partition.indices)) == len(partition.indices)
    assert (counts.sum(axis=0) > 0).all()


def test_balanced_classes_are_used_up():
    partition = ClassesPerClient(2).split(LABELS, 50, rng())
    assert partition.sizes.tolist() == [20] * 50


def test_uneven_classes_give_the_largest_shards_that_fit():
    labels = np.repeat([0, 1, 2], [10, 40, 70])
    # 4 clients x 2 shards of 10: class 0 fills 1, class 1 four, class 2 four (no client takes it twice);
    # shards of 11 would leave class 0 out
    partition = ClassesPerClient(2).split(labels, 4, rng())
    counts = class_counts(partition, labels)
    assert partition.sizes.tolist() == [20] * 4
    assert counts[:, 0].sum() == 10
    assert counts.sum(axis=0).tolist() in ([10, 40, 30], [10, 30, 40])


def test_all_pairs_of_classes_meet():
    labels = np.repeat(np.arange(4), 1000)
    counts = class_counts(ClassesPerClient(2).split(labels, 400, rng()), labels) > 0
    together = counts.T.astype(int) @ counts.astype(int)
    pairs = together[np.triu_indices(4, 1)]
    assert pairs.sum() == 400
    # 66.7 expected for each of the six pairs
    assert pairs.min() > 40
    assert pairs.max() < 95


def test_classes_per_client_refuses():
    with pytest.raises(ConfigError) as caught:
        ClassesPerClient(10).split(LABELS, 20, rng())
    assert (caught.value.key, caught.value.nearest) == ("classes_per_client", 9)
    with pytest.raises(ConfigError) as caught:
        ClassesPerClient(2).split(LABELS, 4, rng())
    assert (caught.value.key, caught.value.nearest) == ("num_clients", 5)
    with pytest.raises(ConfigError, match="uneven"):
        ClassesPerClient(2).split(np.repeat([0, 1, 2], [1, 1, 50]), 10, rng())
    with pytest.raises(ConfigError):
        ClassesPerClient(0)
