"""From a configuration to an experiment: who attacks, which samples the server holds, what is refused and how."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, fields

import numpy as np
import pytest

from attacks import ATTACKS
from defenses import DEFENSES
from raysim import Attack, ConfigError, DataError, Defense
from raysim.composition.attackers import make_campaigns, place_malicious
from raysim.composition.compose import compose
from raysim.composition.methods import make_defense, written_out
from raysim.composition.registry import defense_title, make
from raysim.composition.samples import load_data, set_aside
from raysim.config.schema import Component, ExperimentConfig
from raysim.data.dataset import Dataset, normalise
from raysim.data.partition import PARTITIONS
from raysim.defense import Chain
from raysim.engine.drawn_updates import UPDATES
from raysim.training.schedule import LearningRates

HERE = __name__


@dataclass(frozen=True)
class Demanding(Defense):
    """Wants a cohort of a certain size."""

    size: int = 3
    mode: str = "all"
    weights: tuple[float, ...] = field(default=(1.0, 2.0))

    def __post_init__(self):
        if self.size < 1:
            raise ConfigError("size", "must be positive", self.size, 1)

    def check(self, setting):
        if setting.cohort < self.size:
            raise ConfigError("size", "must not exceed the cohort", self.size, setting.cohort)
        if self.mode == "server":
            raise ConfigError("server_data.samples", "must be at least 1", setting.server_samples, 1)


@dataclass(frozen=True)
class Bare(Defense):
    """Has no options."""


@dataclass(frozen=True)
class Numbers(Defense):
    """Has options of every type that a boolean or infinity might slip into."""

    count: int | None = None
    share: float = 0.5
    bound: float = np.inf
    side: int | str = "native"
    switch: bool = False
    either: bool | int = 0
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Targeted(Attack):
    """Turns class `source` into class 0."""

    source: int = 1

    def check(self, setting):
        if self.source >= setting.num_classes:
            raise ConfigError("source", "must be a class", self.source, setting.num_classes - 1)

    def triggered_test(self, test):
        inside = test.labels == self.source
        return Dataset(test.images[inside], np.zeros(int(inside.sum()), np.int64))


@dataclass(frozen=True)
class Half:
    """A partition: the first half of the samples to client 0, the rest to the last."""

    def split(self, labels, num_clients, rng, owners=None):
        from raysim.data.assignment import from_owners

        middle = len(labels) // 2
        return from_owners(np.repeat([0, num_clients - 1], [middle, len(labels) - middle]), num_clients)


def config_of(**values):
    base = {
        "population": {"clients": 8},
        "data": {"name": "digits", "limit": 200},
        "server_data": {"samples": 20},
    }
    return ExperimentConfig.from_mapping({**base, **values})


def refusal(**values):
    with pytest.raises(ConfigError) as caught:
        compose(config_of(**values))
    return caught.value


# -- who attacks ----------------------------------------------------------------------------------------


def placed(**population):
    return place_malicious(config_of(population=population)).tolist()


class Undecorated(Defense):
    """Its hyper-parameters would be no fields."""

    keep: int = 3


ONE_AT_A_TIME = {
    "model": {"name": "dba_resnet18"},
    "training": {"batch_size": 1, "epochs": 1},
    "attack": [],
    "defense": "fedavg",
    "server_data": {"samples": 0},
    "population": {"clients": 8, "malicious": 0},
}


@pytest.mark.parametrize("updates", ["trained", "synthetic"])
@pytest.mark.parametrize("side", [8, 16])
def test_single_samples_are_refused_if_batch_norm_sees_one_value_a_channel(side: int, updates: str):
    data = {"name": "synthetic", "shape": [3, side, side], "train_size": 24, "test_size": 10}
    config = ExperimentConfig.from_mapping({**ONE_AT_A_TIME, "data": data, "updates": {"name": updates}})
    if side == 8 and updates == "trained":
        with pytest.raises(ConfigError, match=r"training\.batch_size: must be at least 2 for this model"):
            compose(config)
    else:
        assert compose(config).config.training.batch_size == 1


def test_the_last_clients_are_malicious_by_default():
    assert placed(clients=8, malicious=3) == [5, 6, 7]
    assert placed(clients=8) == []
    assert placed(clients=8, malicious=8) == list(range(8))


def test_appended_attackers_have_the_ids_after_the_benign():
    for placement in ("last", "random"):
        assert placed(clients=8, malicious=3, mode="append", placement=placement) == [8, 9, 10]


def test_listed_attackers_are_sorted():
    assert placed(clients=8, malicious=3, placement=[6, 0, 4]) == [0, 4, 6]


def test_random_attackers_follow_the_seed():
    def drawn(seed):
        population = {"clients": 100, "malicious": 10, "placement": "random"}
        return place_malicious(config_of(seed=seed, population=population)).tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    for ids in (drawn(0), drawn(1)):
        assert len(set(ids)) == 10
        assert ids == sorted(ids)
        assert set(ids) <= set(range(100))
    assert drawn(0) != list(range(90, 100))


def campaigns(*attacks, malicious=(2, 4, 5, 7)):
    found = make_campaigns(config_of(attack=list(attacks)), np.array(malicious))
    return [campaign.client_ids.tolist() for campaign in found]


def noise(**options):
    return {"name": "noise", **options}


def test_one_attack_commands_all_malicious_clients():
    assert campaigns(noise()) == [[2, 4, 5, 7]]
    assert campaigns(noise(clients=2)) == [[2, 4]]
    assert campaigns(noise(clients=[7, 2])) == [[2, 7]]
    assert campaigns() == []


def test_named_clients_go_first_then_counts_in_order_then_the_rest():
    assert campaigns(noise(clients=1), noise(clients=[2]), noise()) == [[4], [2], [5, 7]]
    assert campaigns(noise(), noise(clients=2), noise(clients=1)) == [[7], [2, 4], [5]]
    assert campaigns(noise(clients=[5]), noise(clients=[4, 7])) == [[5], [4, 7]]


@pytest.mark.parametrize(
    ("attacks", "key", "value"),
    [
        ([noise(clients=5)], "attack.clients", 5),
        ([noise(clients=0)], "attack.clients", 0),
        ([noise(clients=-1)], "attack.clients", -1),
        ([noise(clients=[])], "attack.clients", []),
        ([noise(clients=[3])], "attack.clients", [3]),
        ([noise(clients=[2, 2])], "attack.clients", [2, 2]),
        ([noise(clients=[2]), noise(clients=[2, 4])], "attack.1.clients", [2, 4]),
        ([noise(clients=[2]), noise(clients=4)], "attack.1.clients", 4),
        ([noise(clients=4), noise()], "attack.1.clients", None),
        ([noise(), noise()], "attack.1.clients", None),
    ],
)
def test_clients_that_are_not_there_cannot_be_commanded(attacks, key, value):
    with pytest.raises(ConfigError) as caught:
        campaigns(*attacks)
    assert (caught.value.key, caught.value.value) == (key, value)


def test_an_attack_needs_malicious_clients():
    error = refusal(attack="noise")
    assert (error.key, error.value, error.nearest) == ("population.malicious", 0, 1)


def test_each_attack_has_its_own_options_and_schedule():
    attacks = [
        noise(std=3.0, clients=1, schedule={"start": 2, "stop": 5, "every": 2}),
        {"name": f"{HERE}:Targeted"},
    ]
    first, second = make_campaigns(config_of(attack=attacks), np.array([6, 7]))
    assert first.attack == ATTACKS["noise"](std=3.0)
    assert [number for number in range(8) if first.schedule.active(number)] == [2, 4]
    assert second.attack == Targeted()
    assert second.schedule.active(100)


def test_those_that_join_must_fit_the_cohort():
    attack = noise(schedule={"participation": "frequency"})
    error = refusal(attack=attack, population={"clients": 8, "cohort": 3, "malicious": 4})
    assert (error.key, error.nearest) == ("attack.schedule.participation", "pool")


# -- samples the server sets aside ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_data(config_of())


def test_server_samples_leave_the_training_set(digits):
    held, taken, test = set_aside(config_of(), digits)
    assert len(held) == len(taken) == 20
    assert test is digits.test
    own = {image.tobytes() for image in held.images}
    assert own == {
        image.tobytes() for image in normalise(digits.train.images[taken], digits.mean, digits.std).numpy()
    }
    labels = {image.tobytes(): label for image, label in zip(held.images, held.labels, strict=True)}
    for index in taken:
        image = normalise(digits.train.images[[index]], digits.mean, digits.std).numpy()[0]
        assert labels[image.tobytes()] == digits.train.labels[index]


def test_server_samples_leave_the_test_set(digits):
    held, taken, test = set_aside(config_of(server_data={"samples": 10, "source": "test"}), digits)
    assert len(taken) == 0
    assert (len(held), len(test)) == (10, len(digits.test) - 10)
    kept = {image.tobytes() for image in test.images}
    assert not kept & {image.tobytes() for image in held.images}


@pytest.mark.parametrize("source", ["train", "test"])
def test_server_samples_of_certain_classes(digits, source):
    wanted = {"samples": 6, "classes": [3, 8], "source": source}
    held, taken, _ = set_aside(config_of(server_data=wanted), digits)
    assert set(held.labels.tolist()) <= {3, 8}
    assert len(held) == 6
    if source == "train":
        assert sorted(digits.train.labels[taken]) == sorted(held.labels)


def test_server_samples_follow_the_seed_and_none_are_none(digits):
    def drawn(**values):
        return set_aside(config_of(**values), digits)[1].tolist()

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    held, taken, test = set_aside(config_of(server_data={"samples": 0}), digits)
    assert held is None
    assert len(taken) == 0
    assert test is digits.test


@pytest.mark.parametrize(
    ("wanted", "key", "rule"),
    [
        ({"samples": 200}, "server_data.samples", "some of the 200 samples of that kind in the train set"),
        ({"samples": 40, "source": "test"}, "server_data.samples", "some of the 40 samples"),
        ({"samples": 5, "classes": [1, 10]}, "server_data.classes", "classes from 0 to 9"),
        ({"samples": 5, "classes": []}, "server_data.classes", "classes from 0 to 9"),
    ],
)
def test_more_than_there_is_cannot_be_set_aside(digits, wanted, key, rule):
    with pytest.raises(ConfigError) as caught:
        set_aside(config_of(server_data=wanted), digits)
    assert caught.value.key == key
    assert rule in caught.value.rule


@pytest.mark.parametrize("source", ["train", "test"])
def test_no_client_and_no_test_set_holds_a_server_sample(source):
    experiment = compose(config_of(server_data={"samples": 20, "source": source}))
    images, _, indices, offsets, test_images, _ = experiment.arrays
    assert len(set(indices.tolist())) == len(indices)
    mean, std = experiment.setup.mean, experiment.setup.std
    server = {image.tobytes() for image in experiment.server_data.images}
    for others in (images[indices], test_images):
        assert not server & {image.tobytes() for image in normalise(others, mean, std).numpy()}
    assert offsets[-1] == len(indices) == (180 if source == "train" else 200)
    np.testing.assert_array_equal(np.diff(offsets), experiment.sizes)
    assert experiment.test_sizes == (len(test_images),)


# -- components -----------------------------------------------------------------------------------------


def test_a_paper_is_no_option():
    with pytest.raises(ConfigError, match=r"defense\.paper"):
        make("defense", DEFENSES, Component(name="krum", paper="mine"), Defense)
    assert "paper" not in written_out(ExperimentConfig.from_mapping({"defense": "krum"})).to_yaml()


def test_tables_name_a_defense_that_is_shown_the_truth():
    assert defense_title("oracle") == "oracle (calibration only)"
    assert defense_title("oracle", "oracle@2nodes") == "oracle@2nodes (calibration only)"
    assert defense_title("defenses.oracle:Oracle") == "defenses.oracle:Oracle (calibration only)"
    assert defense_title("pdrr,rule=median") == "pdrr,rule=median"
    assert defense_title("gone.away:Method") == "gone.away:Method"
    assert defense_title("(limits)") == "(limits)"


def test_options_are_checked_by_type_and_by_the_component():
    def refused(**options):
        with pytest.raises(ConfigError) as caught:
            make("defense", DEFENSES, Component(name=f"{HERE}:Demanding", **options), Defense)
        return caught.value

    assert make("defense", DEFENSES, Component(name=f"{HERE}:Demanding", size=4), Defense) == Demanding(4)
    assert refused(size="many").key == "defense.size"
    assert refused(size="many").rule == "must be a whole number"
    assert (refused(size=0).key, refused(size=0).nearest) == ("defense.size", 1)
    assert (refused(sise=4).key, refused(sise=4).nearest) == ("defense.sise", "size")
    assert refused(weights=[1, "x"]).key == "defense.weights.1"
    with pytest.raises(ConfigError, match=r"attack.schedul: must be one of .*did you mean 'schedule'\?"):
        make_campaigns(config_of(attack=noise(schedul=1)), np.array([1]))
    with pytest.raises(ConfigError, match=r"defense.bound: .*:Bare has no options; received 'bound'"):
        make_defense(config_of(defense={"name": f"{HERE}:Bare", "bound": 1}))


@pytest.mark.parametrize(
    ("options", "key", "rule"),
    [
        ({"count": True}, "count", "boolean"),
        ({"count": np.False_}, "count", "boolean"),
        ({"share": False}, "share", "boolean"),
        ({"side": True}, "side", "boolean"),
        ({"weights": [0.5, True]}, "weights.1", "boolean"),
        ({"share": np.inf}, "share", "finite"),
        ({"share": "nan"}, "share", "finite"),
        ({"bound": -np.inf}, "bound", "finite"),
        ({"weights": (-np.inf, 1)}, "weights.0", "finite"),
    ],
)
def test_booleans_and_infinities_are_no_numbers(options, key, rule):
    with pytest.raises(ConfigError, match=rule) as caught:
        make("defense", DEFENSES, Component(name=f"{HERE}:Numbers", **options), Defense)
    assert caught.value.key == f"defense.{key}"


def test_booleans_where_they_belong_and_defaults_pass():
    options = {"switch": True, "either": True, "bound": np.inf, "weights": [1]}
    made = make("defense", DEFENSES, Component(name=f"{HERE}:Numbers", **options), Defense)
    assert made == Numbers(switch=True, either=True, weights=(1.0,))


@pytest.mark.parametrize("kind", ["attack", "defense", "data.partition", "updates"])
def test_no_component_takes_a_boolean_or_infinity_for_a_number(kind):
    table = {"attack": ATTACKS, "defense": DEFENSES, "data.partition": PARTITIONS, "updates": UPDATES}[kind]
    for name, cls in table.items():
        for option in fields(cls):
            wrong = (np.inf, np.nan) if isinstance(option.default, bool) else (np.inf, np.nan, True)
            for value in wrong:
                with pytest.raises(ConfigError) as caught:
                    make(kind, table, Component(name=name, **{option.name: value}))
                assert caught.value.key.startswith(f"{kind}.{option.name}"), (name, value)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere.at_all:Thing", "must be importable (ModuleNotFoundError: No module named 'nowhere')"),
        (f"{HERE}:Missing", "must be importable (AttributeError:"),
        (":Thing", "must be importable (ValueError:"),
        (f"{HERE}:Targeted", "must name a dataclass that derives from raysim.Defense"),
        (f"{HERE}:config_of", "must name a dataclass that derives from raysim.Defense"),
        ("math:pi", "must name a dataclass that derives from raysim.Defense"),
        (f"{HERE}:Undecorated", "must be frozen: write @dataclass(frozen=True) above its class"),
    ],
)
def test_wrong_import_paths_are_refused(path, problem):
    error = refusal(defense=path)
    assert (error.key, error.value) == ("defense.name", path)
    assert problem in error.rule


def test_partitions_by_import_path():
    experiment = compose(config_of(data={"name": "digits", "limit": 200, "partition": f"{HERE}:Half"}))
    assert experiment.sizes.tolist() == [90, 0, 0, 0, 0, 0, 0, 90]
    error = refusal(data={"name": "digits", "partition": "math:pi"})
    assert (error.key, error.rule) == ("data.partition.name", "must name a dataclass")


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"data": "digit"}, "data.name", "digits"),
        ({"data": {"name": "digits", "limt": 5}}, "data.limt", "limit"),
        ({"data": {"name": "synthetic", "num_clases": 5}}, "data.num_clases", "num_classes"),
        ({"data": {"name": "synthetic", "noise": -1}}, "data.noise", 0.0),
        ({"data": {"name": "digits", "partition": "idd"}}, "data.partition.name", "iid"),
        (
            {"data": {"name": "digits", "partition": {"name": "dirichlet", "alpha": -1}}},
            "data.partition.alpha",
            0.5,
        ),
        ({"data": {"name": "digits", "partition": "natural"}}, "data.partition.name", None),
        ({"data": {"name": "digits", "limit": 30}, "population": {"clients": 50}}, "population.clients", 10),
        ({"model": "lenet"}, "model.name", "lenet_wang"),
        ({"model": {"name": "lenet_wang", "widht": 1}}, "model.widht", "width"),
        ({"defense": "krumm"}, "defense.name", "krum"),
        ({"defense": ["clip_norm", "krumm"]}, "defense.1.name", "krum"),
        (
            {"defense": ["clip_norm", {"name": "krum", "num_bizantine": 1}]},
            "defense.1.num_bizantine",
            "num_byzantine",
        ),
        ({"defense": {"name": f"{HERE}:Demanding", "size": 9}}, "defense.size", 8),
        ({"defense": ["clip_norm", {"name": f"{HERE}:Demanding", "size": 9}]}, "defense.1.size", 8),
        ({"defense": {"name": f"{HERE}:Demanding", "mode": "server"}}, "server_data.samples", 1),
        (
            {"defense": {"name": "flare", "label": 3}, "server_data": {"samples": 10, "classes": [0, 1]}},
            "defense.label",
            1,
        ),
        ({"population": {"clients": 8, "malicious": 1}, "attack": "noisy"}, "attack.name", "noise"),
        (
            {
                "population": {"clients": 8, "malicious": 1},
                "attack": {"name": f"{HERE}:Targeted", "source": 10},
            },
            "attack.source",
            9,
        ),
        (
            {
                "population": {"clients": 8, "malicious": 2},
                "attack": [noise(clients=1), {"name": f"{HERE}:Targeted", "source": 10}],
            },
            "attack.1.source",
            9,
        ),
    ],
)
def test_every_refusal_names_the_dotted_key_and_the_nearest_valid_choice(values, key, nearest):
    error = refusal(**values)
    assert (error.key, error.nearest) == (key, nearest)


def test_missing_data_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cifar10"):
        compose(config_of(data={"name": "cifar10", "root": str(tmp_path)}))


# -- the experiment -------------------------------------------------------------------------------------


def test_several_defenses_are_a_chain_and_one_is_itself():
    assert make_defense(config_of(defense={"name": "krum", "num_byzantine": 1})) == DEFENSES["krum"](
        num_byzantine=1
    )
    chained = make_defense(config_of(defense=["clip_norm", {"name": "krum", "num_byzantine": 1}]))
    assert chained == Chain((DEFENSES["clip_norm"](), DEFENSES["krum"](num_byzantine=1)))


def test_the_resolved_configuration_writes_out_every_default():
    config = config_of(
        population={"clients": 8, "malicious": 2},
        attack=[noise(clients=1, schedule={"start": 1}), {"name": f"{HERE}:Targeted"}],
        defense={"name": f"{HERE}:Demanding", "size": 4},
    )
    written = written_out(config).to_mapping()
    assert written["defense"] == {
        "name": f"{HERE}:Demanding",
        "size": 4,
        "mode": "all",
        "weights": [1.0, 2.0],
    }
    schedule = {"start": 1, "stop": None, "every": 1, "participation": "pool"}
    assert written["attack"][0]["schedule"] == schedule
    assert (written["attack"][0]["std"], written["attack"][0]["clients"]) == (1.0, 1)
    assert written["attack"][1]["source"] == 1
    assert written["data"]["partition"] == {"name": "iid", "samples_per_client": None, "remainder": "spread"}
    resolved = compose(config).config
    assert compose(resolved).config == resolved
    assert compose(ExperimentConfig.from_mapping(resolved.to_mapping())).config == resolved


def test_an_experiment_is_the_same_every_time_and_depends_on_the_seed():
    values = {"population": {"clients": 8, "malicious": 2}, "attack": f"{HERE}:Targeted"}
    first, second, other = (compose(config_of(**values, **more)) for more in ({}, {}, {"seed": 1}))
    for one, two in zip(first.arrays, second.arrays, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first.initial.tobytes() == second.initial.tobytes()
    assert first.initial.tobytes() != other.initial.tobytes()
    assert not np.array_equal(first.arrays[2], other.arrays[2])


def test_what_the_parts_of_an_experiment_are():
    config = config_of(
        population={"clients": 8, "malicious": 2}, attack=[noise(clients=1), {"name": f"{HERE}:Targeted"}],
        training={"epochs": 3, "batch_size": 7, "lr_decay": 0.9,
                  "optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.5, "weight_decay": 0.1}},
    )  # fmt: skip
    experiment = compose(config)
    plan = experiment.setup
    assert plan.recipe.__dict__ == {
        "epochs": 3, "batch_size": 7, "optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.5, "weight_decay": 0.1,
        "proximal_mu": 0.0, "augmentation": "none", "crop_padding": 4,
    }  # fmt: skip
    assert plan.rates == LearningRates("exponential", 0.9, 1)
    assert experiment.malicious.tolist() == [6, 7]
    assert len(experiment.initial) == plan.layout.num_columns == 13706
    assert len(experiment.arrays) == 4 + 2 * 2
    assert experiment.test_sizes == (40, int((experiment.arrays[5] == 1).sum()))
    assert set(experiment.arrays[7].tolist()) == {0}
    copy = pickle.loads(pickle.dumps(plan))
    np.testing.assert_array_equal(copy.campaigns[1].client_ids, [7])
    assert plan.layout.vector(copy.factory.build()).tobytes() == experiment.initial.tobytes()


def test_a_target_that_no_test_sample_can_show_is_refused(monkeypatch):
    monkeypatch.setattr(Targeted, "triggered_test", lambda self, test: test.select(np.zeros(0, np.int64)))
    error = refusal(population={"clients": 8, "malicious": 1}, attack=f"{HERE}:Targeted")
    assert error.key == "attack"
    assert "no test sample" in error.rule


def test_a_dot_for_the_colon_of_an_import_path_gets_the_hint(tiny):
    with pytest.raises(
        ConfigError, match=r"behind a colon.*did you mean 'tests\.stateful_methods:Reputation'"
    ):
        compose(ExperimentConfig.from_mapping({**tiny, "defense": "tests.stateful_methods.Reputation"}))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model": {"name": "resnet18_cifar", "width": 1e300}}, "model"),
        ({"model": {"name": "dba_mnist_cnn", "num_classes": 3}}, "model.num_classes"),
        ({"data": {"name": "synthetic", "shape": None}}, "data.shape"),
        ({"data": {"name": "synthetic", "noise": "loud"}}, "data.noise"),
        ({"data": {"name": "synthetic", "num_owners": 1.5}}, "data.num_owners"),
        ({"data": {"name": "synthetic", "train_size": 10**18}}, "data.name"),
    ],
)
def test_options_beyond_all_machines_are_refused(values, key):
    with pytest.raises(ConfigError) as caught:
        compose(ExperimentConfig.from_mapping(values))
    assert caught.value.key == key
