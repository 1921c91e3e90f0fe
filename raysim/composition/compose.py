"""The composition root: the one module that knows attacks and defenses by name.

`compose` turns a configuration into an experiment, or refuses it: every check that does not need a running
backend happens here, before any process is started.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from attacks import ATTACKS
from defenses import DEFENSES
from raysim import data as datasets
from raysim import rng
from raysim.attack import Attack
from raysim.backends.capacity import Capacity
from raysim.composition.registry import (
    _defaults,
    make,
)
from raysim.composition.resources import clients_per_stack, resolved
from raysim.config.schema import ExperimentConfig, numbered
from raysim.context import ServerData, Setting
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.partition import PARTITIONS, Partition
from raysim.defense import Chain, Defense, chain
from raysim.engine.campaigns import Campaign, Schedule
from raysim.engine.drawn_updates import UPDATES, Planted, Synthetic, Trained, acts_in_training
from raysim.engine.experiment import Experiment
from raysim.engine.host import HostSetup
from raysim.errors import ConfigError, unknown_name
from raysim.matrix.layout import Layout
from raysim.matrix.updates import shard_bounds
from raysim.models.recipe import ModelRecipe
from raysim.training.recipe import TrainingRecipe


def written_out(config: ExperimentConfig) -> ExperimentConfig:
    """The same configuration with the defaults of its attacks, defenses and partition written out."""
    values = config.to_mapping()
    values["defense"] = [
        {**_defaults(make("defense", DEFENSES, item, Defense)), **item.model_dump(mode="json")}
        for item in config.defense
    ]
    values["attack"] = [
        {**_defaults(make("attack", ATTACKS, item, Attack)), **item.model_dump(mode="json")}
        for item in config.attack
    ]
    split = config.data.partition
    values["data"]["partition"] = {
        **_defaults(make("data.partition", PARTITIONS, split)),
        **split.model_dump(mode="json"),
    }
    values["updates"] = {"name": config.updates.name, **_defaults(make_updates(config))}
    return ExperimentConfig.from_mapping(values)


def make_defense(config: ExperimentConfig) -> Defense:
    """The defense, or the chain of them."""
    return chain(
        *(
            make(numbered("defense", config.defense, number), DEFENSES, component, Defense)
            for number, component in enumerate(config.defense)
        )
    )


def make_updates(config: ExperimentConfig) -> Trained | Synthetic:
    """Where the updates come from."""
    return make("updates", UPDATES, config.updates)


def compose(config: ExperimentConfig, capacity: Capacity | None = None) -> Experiment:
    """The experiment a configuration describes; ConfigError or DataError where it describes none."""
    capacity = capacity or Capacity()
    defense = make_defense(config)
    malicious = place_malicious(config)
    campaigns = make_campaigns(config, malicious)
    source = load_data(config)
    factory = ModelRecipe(
        config.model.name,
        source.num_classes,
        source.input_shape,
        rng.torch_seed(config.seed, "model"),
        config.model.options,
    )
    model = factory.build()
    layout = Layout.of(model)
    server_data, train_pool, test = set_aside(config, source)
    setting = Setting.of(
        config.population.cohort_size,
        population=config.population.total,
        num_malicious=len(malicious),
        rounds=config.rounds,
        num_classes=source.num_classes,
        server_labels=None if server_data is None else server_data.labels,
    )
    for number, step in enumerate(defense.steps if isinstance(defense, Chain) else (defense,)):
        with _keys_under(numbered("defense", config.defense, number)):
            step.check(setting)
    for number, campaign in enumerate(campaigns):
        with _keys_under(numbered("attack", config.attack, number)):
            campaign.attack.check(setting)
    config = resolved(written_out(config), layout, capacity)
    updates = make_updates(config)
    synthetic = updates if isinstance(updates, Synthetic) else None
    train_set, partition = hold_one(config, source) if synthetic else deal(config, source, train_pool)
    together = 1 if synthetic else clients_per_stack(config, model, source.input_shape)
    config = config.with_values(training={"clients_per_stack": together})
    tests = [test]
    for number, campaign in enumerate(campaigns):
        group = numbered("attack", config.attack, number)
        with _keys_under(group):
            triggered = campaign.attack.triggered_test(test)
        if triggered is not None:
            if not len(triggered):
                raise ConfigError(group, "its target leaves no test sample to measure attack success on", 0)
            tests.append(triggered)
    setup = HostSetup(
        seed=config.seed,
        factory=factory,
        layout=layout,
        recipe=TrainingRecipe(
            epochs=config.training.epochs,
            batch_size=config.training.batch_size,
            optimizer=config.training.optimizer.name,
            learning_rate=config.training.optimizer.lr,
            momentum=config.training.optimizer.momentum,
            weight_decay=config.training.optimizer.weight_decay,
        ),
        lr_decay=config.training.lr_decay,
        device=config.resources.device,
        mean=source.mean,
        std=source.std,
        attack_std=source.attack_std,
        campaigns=campaigns,
        bounds=_bounds(config, layout),
        evaluation_batch=config.evaluation.batch_size,
        clients_per_stack=together,
        synthetic=synthetic,
    )
    return Experiment(
        config=config,
        setup=setup,
        initial=layout.vector(model),
        defense=defense,
        server_data=server_data,
        sizes=partition.sizes,
        malicious=malicious,
        arrays=(
            train_set.images,
            train_set.labels,
            partition.indices,
            partition.offsets,
            *(array for part in tests for array in (part.images, part.labels)),
        ),
        test_sizes=tuple(len(part) for part in tests),
    )


def hold_one(config: ExperimentConfig, source: FederatedData) -> tuple[Dataset, Partition]:
    """A placeholder of one sample that every client holds, so that each claims one example; it is never read."""
    clients = config.population.total
    one = source.train.select(np.zeros(1, np.int64))
    return one, Partition(np.zeros(clients, np.int32), np.arange(clients + 1))


def deal(config: ExperimentConfig, source: FederatedData, pool: np.ndarray) -> tuple[Dataset, Partition]:
    """The training set, and which client holds which samples of it: those in `pool` are dealt."""
    split: Any = make("data.partition", PARTITIONS, config.data.partition)
    with _keys_under("data.partition", num_clients="population.clients", partition="data.partition.name"):
        partition: Partition = split.split(
            source.train.labels[pool],
            config.population.total,
            rng.generator(config.seed, "partition"),
            None if source.owners is None else source.owners[pool],
        )
    return source.train, Partition(pool[partition.indices], partition.offsets)


def place_malicious(config: ExperimentConfig) -> np.ndarray:
    """Sorted ids of the malicious clients."""
    population = config.population
    count = population.num_malicious
    if isinstance(population.placement, list):
        return np.sort(np.array(population.placement, np.int64))
    if population.placement == "last" or population.mode == "append":
        return np.arange(population.total - count, population.total)
    return np.sort(rng.generator(config.seed, "placement").choice(population.total, count, replace=False))


def load_data(config: ExperimentConfig) -> FederatedData:
    """The data set; ConfigError names the dotted key of what it refuses."""
    wanted = config.data
    if wanted.name not in datasets.DATASETS:
        raise unknown_name("data.name", wanted.name, datasets.DATASETS)
    known = [
        *datasets.loader_options(wanted.name),
        *(key for key in type(wanted).model_fields if key != "name"),
    ]
    for option in wanted.options:
        if option not in known:
            raise unknown_name(f"data.{option}", option, known)
    with _keys_under("data"):
        return datasets.load(
            wanted.name,
            wanted.root,
            limit=wanted.limit,
            download=wanted.download,
            seed=config.seed,
            **wanted.options,
        )


def make_campaigns(config: ExperimentConfig, malicious: np.ndarray) -> tuple[Campaign, ...]:
    """The attacks, each with the malicious clients it commands.

    Attacks that list ids get them; those with a count take the first that are free, in order; an attack
    without `clients` takes all the rest. Where updates are drawn and no attack is named, the malicious clients are
    planted.
    """
    drawn = isinstance(make_updates(config), Synthetic)
    if drawn and not config.attack and len(malicious):
        return (Campaign(Planted(), malicious),)
    if config.attack and not len(malicious):
        raise ConfigError("population.malicious", "must be at least 1 when there is an attack", 0, 1)
    free = malicious.tolist()
    chosen: dict[int, list[int]] = {}
    kinds = (list, int, type(None))
    for kind in kinds:
        for number, item in enumerate(config.attack):
            wanted = item.clients
            if not isinstance(wanted, kind):
                continue
            key = numbered("attack", config.attack, number) + ".clients"
            if isinstance(wanted, list):
                ids, count = np.intersect1d(wanted, free).tolist(), len(wanted)
            else:
                count = len(free) if wanted is None else max(wanted, 0)
                ids = free[:count]
            if wanted is None and not ids:
                raise ConfigError(key, "no malicious client is left for this attack", wanted)
            if len(ids) != count or not ids:
                rule = "must name malicious clients that no other attack commands"
                raise ConfigError(key, rule, wanted, len(free) if isinstance(wanted, int) else None)
            taken = set(ids)
            free = [i for i in free if i not in taken]
            chosen[number] = ids
    campaigns = []
    for number, item in enumerate(config.attack):
        group = numbered("attack", config.attack, number)
        attack = make(group, ATTACKS, item, Attack)
        if drawn and acts_in_training(attack):
            rule = "must not act in local training: with updates.name=synthetic nobody trains"
            raise ConfigError(f"{group}.name", rule, item.name)
        when = item.schedule
        schedule = Schedule(when.start, when.stop, when.every, when.participation == "frequency")
        campaigns.append(Campaign(attack, np.array(chosen[number], np.int64), schedule))
        joining = sum(len(campaign.client_ids) for campaign in campaigns if campaign.schedule.joins)
        if joining > config.population.cohort_size:
            rule = f"must be pool: {joining} clients cannot join a cohort of {config.population.cohort_size}"
            raise ConfigError(f"{group}.schedule.participation", rule, when.participation, "pool")
    return tuple(campaigns)


def set_aside(
    config: ExperimentConfig, source: FederatedData
) -> tuple[ServerData | None, np.ndarray, Dataset]:
    """(the server's own data, indices of training samples left for clients, the test set without it)."""
    wanted = config.server_data
    pool = np.arange(len(source.train))
    if not wanted.samples:
        return None, pool, source.test
    origin = source.train if wanted.source == "train" else source.test
    candidates = np.arange(len(origin))
    if wanted.classes is not None:
        bad = [c for c in wanted.classes if not 0 <= c < source.num_classes]
        if bad or not wanted.classes:
            raise ConfigError(
                "server_data.classes", f"must list classes from 0 to {source.num_classes - 1}", wanted.classes
            )
        candidates = np.flatnonzero(np.isin(origin.labels, wanted.classes))
    if wanted.samples >= len(candidates):
        raise ConfigError(
            "server_data.samples",
            f"must leave some of the {len(candidates)} samples of that kind in the {wanted.source} set",
            wanted.samples,
            max(len(candidates) - 1, 0),
        )
    generator = rng.generator(config.seed, "server_data")
    taken = np.sort(generator.choice(candidates, wanted.samples, replace=False))
    order = generator.permutation(taken)
    held = ServerData(normalise(origin.images[order], source.mean, source.std).numpy(), origin.labels[order])
    if wanted.source == "train":
        return held, np.setdiff1d(pool, taken), source.test
    rest = np.setdiff1d(np.arange(len(source.test)), taken)
    return held, pool, source.test.select(rest)


def _bounds(config: ExperimentConfig, layout: Layout) -> tuple[int, ...]:
    tile_bytes = config.resources.tile_bytes
    assert isinstance(tile_bytes, int), "resolved before"
    return shard_bounds(config.population.cohort_size, layout.dim, tile_bytes)


@contextmanager
def _keys_under(group: str, **elsewhere: str) -> Iterator[None]:
    """Put the keys of ConfigErrors raised inside into their configuration group, or where `elsewhere` says."""
    try:
        yield
    except ConfigError as error:
        key = error.key if "." in error.key else elsewhere.get(error.key, f"{group}.{error.key}")
        raise ConfigError(key, error.rule, error.value, error.nearest) from None
