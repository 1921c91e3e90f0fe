"""From a configuration to an experiment: its parts, its defense, and the configuration written out in full."""

from __future__ import annotations

import pickle

import numpy as np

from defenses import DEFENSES
from raysim.composition.compose import compose
from raysim.composition.methods import make_defense, written_out
from raysim.config.schema import ExperimentConfig
from raysim.defense import Chain
from raysim.training.schedule import LearningRates
from tests.composition.own_components import OWN, config_of, noise


def test_several_defenses_are_a_chain_and_one_is_itself():
    assert make_defense(config_of(defense={"name": "krum", "num_byzantine": 1})) == DEFENSES["krum"](
        num_byzantine=1
    )
    chained = make_defense(config_of(defense=["clip_norm", {"name": "krum", "num_byzantine": 1}]))
    assert chained == Chain((DEFENSES["clip_norm"](), DEFENSES["krum"](num_byzantine=1)))


def test_the_resolved_configuration_writes_out_every_default():
    config = config_of(
        population={"clients": 8, "malicious": 2},
        attack=[noise(clients=1, schedule={"start": 1}), {"name": f"{OWN}:Targeted"}],
        defense={"name": f"{OWN}:Demanding", "size": 4},
    )
    written = written_out(config).to_mapping()
    assert written["defense"] == {
        "name": f"{OWN}:Demanding",
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
    values = {"population": {"clients": 8, "malicious": 2}, "attack": f"{OWN}:Targeted"}
    first, second, other = (compose(config_of(**values, **more)) for more in ({}, {}, {"seed": 1}))
    for one, two in zip(first.arrays, second.arrays, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first.initial.tobytes() == second.initial.tobytes()
    assert first.initial.tobytes() != other.initial.tobytes()
    assert not np.array_equal(first.arrays[2], other.arrays[2])


def test_what_the_parts_of_an_experiment_are():
    config = config_of(
        population={"clients": 8, "malicious": 2}, attack=[noise(clients=1), {"name": f"{OWN}:Targeted"}],
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
