"""What a program hands over as Python objects instead of names, and what the configuration says of it.

The resolved configuration holds `name: object:MyDefense` with the values of its fields; for data and models, whose
values are too many, a digest. A run that is resumed must be given the same again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from raysim.attack import Attack
from raysim.composition.lookup import OBJECT
from raysim.config.keys import numbered
from raysim.config.schema import AttackConfig as AttackKeys
from raysim.config.schema import Component, ExperimentConfig
from raysim.defense import Chain, Defense
from raysim.errors import ConfigError

Method = TypeVar("Method")
Named = TypeVar("Named", bound=Component)

DIGEST = "digest"
"""The option that identifies given data and models."""


@dataclass(frozen=True)
class Given:
    """Objects in place of configuration groups; None: the configuration names it."""

    model: object = None
    data: object = None
    defense: Defense | Sequence[Defense] | None = None
    attack: Attack | Sequence[Attack] | None = None
    partition: object = None

    @property
    def defenses(self) -> tuple[Defense, ...] | None:
        """The steps of the defense."""
        steps = self.defense.steps if isinstance(self.defense, Chain) else self.defense
        return None if steps is None else instances("defense", steps, Defense)

    @property
    def attacks(self) -> tuple[Attack, ...] | None:
        """The attacks, in order."""
        return None if self.attack is None else instances("attack", self.attack, Attack)

    def named_in(self, config: ExperimentConfig) -> ExperimentConfig:
        """The configuration with these objects in place of what it names; refused if it names other objects.

        Attacks keep the schedules and clients of as many attacks of the configuration.
        """
        changed: dict[str, object] = {}
        if (defenses := self.defenses) is not None:
            changed["defense"] = tuple(Component(name=_name(step)) for step in defenses)
            _check_same("defense", config.defense, defenses)
        if (attacks := self.attacks) is not None:
            kept = (
                config.attack if len(config.attack) == len(attacks) else (AttackKeys(name=""),) * len(attacks)
            )
            changed["attack"] = tuple(
                AttackKeys(name=_name(attack), schedule=keys.schedule, clients=keys.clients)
                for attack, keys in zip(attacks, kept, strict=True)
            )
            _check_same("attack", config.attack, attacks)
        data = config.data
        if self.partition is not None:
            if isinstance(self.partition, type) or not hasattr(self.partition, "split"):
                raise ConfigError(
                    "partition", "must be an object with split(...)", type(self.partition).__name__
                )
            _check_same("data.partition", (data.partition,), (self.partition,))
            data = data.model_copy(update={"partition": Component(name=_name(self.partition))})
        if self.data is not None:
            data = _identified("data", data, f"{OBJECT}data")
        if self.model is not None:
            changed["model"] = _identified("model", config.model, _name(self.model))
        return config.model_copy(update={**changed, "data": data})


def identify(group: str, component: Named, digest: str) -> Named:
    """The component of given data or a given model with its digest; ConfigError if it is that of another."""
    known = component.options.get(DIGEST)
    if known not in (None, digest):
        raise ConfigError(group, "must be what the run was started with; its digest differs", digest, known)
    return _changed(component, {DIGEST: digest})


def model_digest(initial: np.ndarray, names: Sequence[str]) -> str:
    """SHA-256 of a model's parameters before round 0, the first 16 digits."""
    return hashlib.sha256(repr(list(names)).encode() + initial.tobytes()).hexdigest()[:16]


def instances(group: str, given: object, base: type[Method]) -> tuple[Method, ...]:
    """The objects given for a group; ConfigError if one is not an instance of a frozen dataclass that derives from base."""
    items = tuple(given) if isinstance(given, list | tuple) else (given,)
    for item in items:
        if not isinstance(item, base) or not dataclasses.is_dataclass(item):
            hint = (
                "an instance, not the class: call it"
                if isinstance(item, type)
                else f"a raysim.{base.__name__}"
            )
            raise ConfigError(group, f"must be {hint}", item)
        if "__dataclass_params__" not in vars(type(item)):
            raise ConfigError(
                group, "must be a frozen dataclass: put @dataclass(frozen=True) above its class", item
            )
    return items


def _name(thing: object) -> str:
    return OBJECT + str(getattr(thing, "__name__", type(thing).__name__))


def _identified(group: str, component: Named, name: str) -> Named:
    """The component under the name of an object: with the digest it had, if it named such an object before."""
    if component.name.startswith(OBJECT) and component.name != name:
        raise ConfigError(group, "must be what the run was started with", name, component.name)
    kept = (
        {DIGEST: component.options[DIGEST]} if component.name == name and DIGEST in component.options else {}
    )
    return _changed(component, {**kept, "name": name})


def _changed(component: Named, values: Mapping[str, object]) -> Named:
    own = {key: getattr(component, key) for key in type(component).model_fields}
    return cast(Named, type(component).model_construct(**{**own, **values}))


def _check_same(group: str, items: Sequence[Component], objects: Sequence[object]) -> None:
    """Where the configuration of a run that is resumed names objects, these must be the same again."""
    from raysim.composition.methods import options_of

    if not any(item.name.startswith(OBJECT) for item in items):
        return
    known = [(item.name, item.options) for item in items]
    found = [(_name(thing), options_of(thing)) for thing in objects]
    if known != found:
        for number, (was, now) in enumerate(zip(known, found, strict=False)):
            if was != now:
                raise ConfigError(
                    numbered(group, items, number), f"must be what the run was started with, {was}", now
                )
        raise ConfigError(group, f"must be the {len(known)} that the run was started with", len(found))
