"""The methods that a configuration names, each built once: defense, attacks, partition, source of updates."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from pydantic_core import to_jsonable_python

from attacks.table import ATTACKS
from defenses.table import DEFENSES
from raysim.attack import Attack
from raysim.composition.given import Given
from raysim.composition.registry import make
from raysim.config.keys import keys_under, numbered
from raysim.config.schema import Component, ExperimentConfig
from raysim.data.partition import PARTITIONS, Partitioner
from raysim.defense import Chain, Defense, chain
from raysim.engine.drawn_updates import UPDATES, Synthetic, Trained
from raysim.fleet import DEVICES
from raysim.fleet.contract import Devices
from raysim.models.weights import file_digest


@dataclass(frozen=True)
class Methods:
    """What a configuration names, as objects, in the order of the configuration."""

    defenses: tuple[Defense, ...]
    attacks: tuple[Attack, ...]
    partition: Partitioner
    updates: Trained | Synthetic
    devices: Devices | None

    @property
    def defense(self) -> Defense:
        """The defense, or the chain of them."""
        return chain(*self.defenses)

    def assuming(self, count: int) -> Methods:
        """The same for rounds of K = count rows: what defenses leave open of them is filled in."""
        made = self.defense.assuming(count)
        steps = made.steps if isinstance(made, Chain) else (made,)
        return dataclasses.replace(self, defenses=steps)

    @property
    def synthetic(self) -> Synthetic | None:
        """How updates are drawn; None if clients train."""
        return self.updates if isinstance(self.updates, Synthetic) else None


def make_methods(config: ExperimentConfig, given: Given = Given()) -> Methods:
    """Every method, its options checked; ConfigError names the dotted key of what it refuses.

    given: objects in place of what the configuration names.
    """
    attacks, defenses = given.attacks, given.defenses
    if attacks is None:
        attacks = tuple(
            make(numbered("attack", config.attack, number), ATTACKS, item, Attack)
            for number, item in enumerate(config.attack)
        )
    return Methods(
        defenses=make_defenses(config) if defenses is None else defenses,
        attacks=attacks,
        partition=make("data.partition", PARTITIONS, config.data.partition)
        if given.partition is None
        else cast(Partitioner, given.partition),
        updates=make("updates", UPDATES, config.updates),
        devices=None
        if config.population.devices is None
        else make("population.devices", DEVICES, config.population.devices, Devices),
    )


def make_defenses(config: ExperimentConfig) -> tuple[Defense, ...]:
    """The defense or, if there are several, the steps of the chain."""
    return tuple(
        make(numbered("defense", config.defense, number), DEFENSES, component, Defense)
        for number, component in enumerate(config.defense)
    )


def make_defense(config: ExperimentConfig) -> Defense:
    """The defense, or the chain of them."""
    return chain(*make_defenses(config))


def written_out(config: ExperimentConfig, methods: Methods | None = None) -> ExperimentConfig:
    """The same configuration with the defaults of its methods, and what follows from its keys, written out.

    methods: those made already, if any.
    """
    made = methods or make_methods(config)
    data = config.data.model_copy(update={"partition": _written_out(config.data.partition, made.partition)})
    population, training, model = config.population, config.training, config.model
    if population.devices is not None and made.devices is not None:
        with keys_under("population.devices"):
            devices = _written_out(population.devices, made.devices.identified())
        population = population.model_copy(update={"devices": devices})
    if training.lr_schedule == "cosine" and training.lr_period is None:
        training = training.model_copy(update={"lr_period": config.rounds})
    if model.weights is not None and model.weights_digest is None:
        path = Path(model.weights).expanduser().absolute()
        model = model.model_copy(update={"weights": str(path), "weights_digest": file_digest(path)})
    return config.model_copy(
        update={
            "defense": tuple(map(_written_out, config.defense, made.defenses)),
            "attack": tuple(map(_written_out, config.attack, made.attacks)),
            "data": data,
            "model": model,
            "population": population,
            "training": training,
            "updates": _written_out(config.updates, made.updates),
        }
    )


def options_of(method: object) -> dict[str, object]:
    """Every option of a method, as YAML holds them."""
    fields = dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
    options = {field.name: getattr(method, field.name) for field in fields if field.init}
    return {key: to_jsonable_python(value, fallback=_in_words) for key, value in options.items()}


def _in_words(value: object) -> str:
    """What stands for a value that YAML cannot hold."""
    if isinstance(value, np.ndarray):
        content = f"{value.dtype}{value.shape}".encode() + value.tobytes()
        return f"array:{hashlib.sha256(content).hexdigest()[:16]}"
    return f"object:{getattr(value, '__qualname__', type(value).__qualname__)}"


def _written_out(component: Component, method: object) -> Component:
    """A component with every option of the method made of it."""
    beside = {key: getattr(component, key) for key in type(component).model_fields}
    return type(component).model_construct(**{**beside, **options_of(method)})
