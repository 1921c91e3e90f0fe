"""The composition root: from a configuration to an experiment, or to a refusal.

In two steps, each method built once. `prepare` does all that needs no running backend: it makes the methods, reads
the data, builds the model, and refuses what cannot work before any process is started. `place` decides by rules on
the machines' capacity what the configuration left open. `compose` does both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raysim.backends.capacity import Capacity
from raysim.composition.attackers import make_campaigns, place_malicious
from raysim.composition.given import Given, identify, model_digest
from raysim.composition.methods import Methods, make_methods, written_out
from raysim.composition.network import make_network, with_weights
from raysim.composition.resources import clients_per_stack, resolved
from raysim.composition.samples import deal, hold_one, load_data, set_aside
from raysim.config.keys import asked, numbered
from raysim.config.schema import Component, ExperimentConfig
from raysim.context import ServerData, Setting
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.given import digest as data_digest
from raysim.data.partition import Partition
from raysim.defense import check_setting
from raysim.engine.campaigns import Campaign
from raysim.engine.experiment import Experiment
from raysim.engine.host import HostSetup
from raysim.engine.simulation import ONE_SAMPLE
from raysim.errors import ConfigError
from raysim.fleet.contract import Fleet
from raysim.matrix.layout import Layout
from raysim.matrix.updates import shard_bounds
from raysim.models.factory import ModelFactory
from raysim.training.augmentation import check_augmentable
from raysim.training.local import least_samples
from raysim.training.recipe import TrainingRecipe
from raysim.training.schedule import LearningRates

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Prepared:
    """An experiment before it is known where it runs: everything made and checked, nothing started."""

    config: ExperimentConfig
    """With the defaults of its methods written out; what depends on the machines is still open."""
    given: Given
    methods: Methods
    malicious: np.ndarray
    campaigns: tuple[Campaign, ...]
    source: FederatedData
    factory: ModelFactory
    model: nn.Module
    layout: Layout
    server_data: ServerData | None
    train_set: Dataset
    partition: Partition
    fleet: Fleet | None
    tests: tuple[Dataset, ...]
    """The clean test set, then each attack's triggered one."""
    adapting: Mapping[int, int]
    """Number of a test set that an attack changes from round to round -> number of the attack's campaign."""
    notes: tuple[str, ...]
    """What a user should know of this experiment before it starts."""


def compose(config: ExperimentConfig, capacity: Capacity | None = None, given: Given = Given()) -> Experiment:
    """The experiment a configuration describes; ConfigError or DataError if it describes none.

    given: objects in place of what the configuration names.
    """
    return place(prepare(config, given), capacity or Capacity())


def prepare(config: ExperimentConfig, given: Given = Given()) -> Prepared:
    """All of an experiment that does not depend on the machines it will run on."""
    config = given.named_in(config)
    methods = make_methods(config, given)
    malicious = place_malicious(config)
    campaigns = make_campaigns(config, malicious, methods)
    source = load_data(config, given.data)
    factory, model = make_network(config, source, given)
    model = with_weights(config, model)
    check_augmentable(source.input_shape, config.training.augmentation, config.training.crop_padding or 4)
    layout = Layout.of(model)
    if config.training.batch_size == 1 and not methods.synthetic:
        check_single_samples(model, source)
    server_data, taken, test = set_aside(config, source)
    setting = replace(
        Setting.of(
            config.population.cohort_size,
            population=config.population.total,
            num_malicious=len(malicious),
            rounds=config.rounds,
            num_classes=source.num_classes,
            server_labels=None if server_data is None else server_data.labels,
        ),
        input_shape=source.input_shape,
        tokens=source.train.images.dtype == np.int64,
        cam_layer=factory.cam_layer,
        head=factory.head,
        buffer=config.population.buffer or 0,
    )
    notes = list(source.notes)
    for number, step in enumerate(methods.defenses):
        with asked(numbered("defense", config.defense, number), step):
            check_setting(step, setting)
            notes += step.remarks(setting)
    for number, campaign in enumerate(campaigns):
        with asked(numbered("attack", config.attack, number), campaign.attack):
            campaign.attack.check(setting)
    if methods.synthetic:
        train_set, partition = hold_one(config, source)
    else:
        train_set, partition = deal(config, methods.partition, source, taken)
    least = 1 if methods.synthetic else least_samples(model)
    if single := int(np.count_nonzero((partition.sizes > 0) & (partition.sizes < least))):
        notes.append(f"{single} clients stay out of every round: they hold {ONE_SAMPLE}")
    fleet = None
    if methods.devices is not None:
        with asked("population.devices", methods.devices):
            fleet = methods.devices.fleet(config.seed)
    if config.population.buffer is not None:
        check_asynchronous(config, partition, least)
    rows = None if _may_lose(config, fleet) else rows_of_round(config, partition, least)
    if rows is not None:
        with asked("defense", methods.defense):
            methods = methods.assuming(rows)
    triggered = triggered_tests(config, campaigns, test)
    return Prepared(
        config=_identified(written_out(config, methods), given, source, layout.vector(model), layout),
        given=given,
        methods=methods,
        malicious=malicious,
        campaigns=campaigns,
        source=source,
        factory=factory,
        model=model,
        layout=layout,
        server_data=server_data,
        train_set=train_set,
        partition=partition,
        fleet=fleet,
        tests=(test, *(part for _, part in triggered)),
        adapting={n: number for n, (number, _) in enumerate(triggered, 1) if campaigns[number].adapts},
        notes=tuple(notes),
    )


def rows_of_round(config: ExperimentConfig, partition: Partition, least: int = 1) -> int | None:
    """How many uploads every round is to bring: clients with fewer samples than `least` send none; None if that varies."""
    if config.population.buffer is not None:
        return config.population.buffer
    able = int(np.count_nonzero(partition.sizes >= least))
    if config.population.cohort_size == config.population.total:
        return able
    return config.population.cohort_size if able == config.population.total else None


def check_asynchronous(config: ExperimentConfig, partition: Partition, least: int) -> None:
    """ConfigError unless enough clients hold `least` samples to fill every place, while all others lie in the buffer."""
    buffer, concurrency = config.population.buffer or 0, config.population.concurrency or 0
    able = int(np.count_nonzero(partition.sizes >= least))
    most = able - buffer + 1
    if most < 1:
        rule = f"must not exceed {able}, the clients that hold enough samples to train"
        raise ConfigError("population.buffer", rule, buffer, max(able, 1))
    if concurrency > most:
        rule = (
            f"must leave clients to be drawn: {able} hold enough samples to train, and with a buffer of "
            f"{buffer} at most {most} of them can be under way"
        )
        raise ConfigError("population.concurrency", rule, concurrency, most)


def _may_lose(config: ExperimentConfig, fleet: Fleet | None) -> bool:
    """Whether fewer clients than the cohort may answer in time; a buffer is waited for until it is full."""
    if config.population.buffer is not None:
        return False
    return fleet is not None and (config.population.deadline_s is not None or not fleet.always_online)


def place(prepared: Prepared, capacity: Capacity) -> Experiment:
    """The experiment on machines of this capacity; ConfigError if it does not fit them."""
    layout, source = prepared.layout, prepared.source
    config = resolved(prepared.config, layout, capacity)
    synthetic = prepared.methods.synthetic
    together = 1 if synthetic else clients_per_stack(config, prepared.model, source.input_shape)
    config = config.filled_in(training={"clients_per_stack": together})
    tile_bytes = config.resources.tile_bytes
    assert isinstance(tile_bytes, int), "resolved above"
    setup = HostSetup(
        seed=config.seed,
        factory=prepared.factory,
        layout=layout,
        recipe=TrainingRecipe(
            epochs=config.training.epochs,
            batch_size=config.training.batch_size,
            optimizer=config.training.optimizer.name,
            learning_rate=config.training.optimizer.lr,
            momentum=config.training.optimizer.momentum,
            weight_decay=config.training.optimizer.weight_decay,
            proximal_mu=config.training.proximal_mu,
            augmentation=config.training.augmentation,
            crop_padding=config.training.crop_padding or 4,
        ),
        rates=LearningRates(
            config.training.lr_schedule, config.training.lr_decay, config.training.lr_period or 1
        ),
        device=config.resources.device,
        mean=source.mean,
        std=source.std,
        attack_std=source.attack_std,
        campaigns=prepared.campaigns,
        bounds=shard_bounds(config.population.cohort_size, layout.dim, tile_bytes),
        evaluation_batch=config.evaluation.batch_size,
        clients_per_stack=together,
        least_samples=1 if synthetic else least_samples(prepared.model),
        synthetic=synthetic,
        client_timeout_s=config.resources.client_timeout_s,
        drop_failing=config.population.on_client_error == "drop",
        adapting=prepared.adapting,
    )
    train_set, partition = prepared.train_set, prepared.partition
    return Experiment(
        config=config,
        setup=setup,
        initial=layout.vector(prepared.model),
        defense=prepared.methods.defense,
        server_data=prepared.server_data,
        sizes=partition.sizes,
        malicious=prepared.malicious,
        arrays=(
            train_set.images,
            train_set.labels,
            partition.indices,
            partition.offsets,
            *(array for part in prepared.tests for array in (part.images, part.labels)),
        ),
        test_sizes=tuple(len(part) for part in prepared.tests),
        notes=prepared.notes,
        fleet=prepared.fleet,
    )


def check_single_samples(model: nn.Module, source: FederatedData) -> None:
    """ConfigError if the model cannot train on one sample at a time: BatchNorm over one value a channel cannot."""
    import torch

    trained = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            trained(normalise(source.train.images[:1], source.mean, source.std))
        except ValueError as error:
            rule = f"must be at least 2 for this model and inputs of {source.input_shape} ({error})"
            raise ConfigError("training.batch_size", rule, 1, 2) from None


def triggered_tests(
    config: ExperimentConfig, campaigns: tuple[Campaign, ...], test: Dataset
) -> list[tuple[int, Dataset]]:
    """What attack success is measured on, for the attacks that have a target, by the number of the campaign."""
    found = []
    for number, campaign in enumerate(campaigns):
        group = numbered("attack", config.attack, number)
        with asked(group, campaign.attack):
            triggered = campaign.attack.triggered_test(test)
        if triggered is not None:
            if not len(triggered):
                raise ConfigError(group, "its target leaves no test sample to measure attack success on", 0)
            found.append((number, triggered))
    return found


def _identified(
    config: ExperimentConfig, given: Given, source: FederatedData, initial: np.ndarray, layout: Layout
) -> ExperimentConfig:
    """The configuration with the digests of given data, of data that have one, and of a given model; refused if it holds others."""
    changed: dict[str, Component] = {}
    if given.data is not None or source.digest is not None:
        changed["data"] = identify("data", config.data, data_digest(source))
    if given.model is not None:
        names = [entry.name for entry in layout.parameters]
        changed["model"] = identify("model", config.model, model_digest(initial, names))
    return config.model_copy(update=changed)
