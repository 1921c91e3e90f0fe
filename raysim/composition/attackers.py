"""Who attacks: the malicious clients, and which of them each attack commands."""

from __future__ import annotations

import numpy as np

from raysim import rng
from raysim.composition.methods import Methods, make_methods
from raysim.config.keys import numbered
from raysim.config.schema import ExperimentConfig
from raysim.engine.campaigns import Campaign, Schedule
from raysim.engine.drawn_updates import Planted, acts_in_training
from raysim.errors import ConfigError


def place_malicious(config: ExperimentConfig) -> np.ndarray:
    """Sorted ids of the malicious clients."""
    population = config.population
    count = population.num_malicious
    if isinstance(population.placement, list):
        return np.sort(np.array(population.placement, np.int64))
    if population.placement == "last" or population.mode == "append":
        return np.arange(population.total - count, population.total)
    return np.sort(rng.generator(config.seed, "placement").choice(population.total, count, replace=False))


def make_campaigns(
    config: ExperimentConfig, malicious: np.ndarray, methods: Methods | None = None
) -> tuple[Campaign, ...]:
    """The attacks, each with the malicious clients it commands.

    Attacks that list ids get them; those with a count take the first that are free, in order; an attack
    without `clients` takes all the rest. Where updates are drawn and no attack is named, the malicious clients are
    planted. methods: those made already, if any.
    """
    methods = methods or make_methods(config)
    drawn = methods.synthetic is not None
    if drawn and not config.attack and len(malicious):
        return (Campaign(Planted(), malicious),)
    if config.attack and not len(malicious):
        raise ConfigError("population.malicious", "must be at least 1 when there is an attack", 0, 1)
    free = malicious
    chosen: dict[int, np.ndarray] = {}
    kinds = (list, int, type(None))
    for kind in kinds:
        for number, item in enumerate(config.attack):
            wanted = item.clients
            if not isinstance(wanted, kind):
                continue
            key = numbered("attack", config.attack, number) + ".clients"
            if isinstance(wanted, list):
                ids, count = np.intersect1d(np.array(wanted, np.int64), free), len(wanted)
            else:
                count = len(free) if wanted is None else max(wanted, 0)
                ids = free[:count]
            if wanted is None and not len(ids):
                raise ConfigError(key, "no malicious client is left for this attack", wanted)
            if len(ids) != count or not len(ids):
                rule = "must name malicious clients that no other attack commands"
                raise ConfigError(key, rule, wanted, len(free) if isinstance(wanted, int) else None)
            free = np.setdiff1d(free, ids) if isinstance(wanted, list) else free[len(ids) :]
            chosen[number] = ids
    campaigns = []
    for number, item in enumerate(config.attack):
        group = numbered("attack", config.attack, number)
        attack = methods.attacks[number]
        if drawn and acts_in_training(attack):
            rule = "must not act in local training: with updates.name=synthetic nobody trains"
            raise ConfigError(f"{group}.name", rule, item.name)
        when = item.schedule
        schedule = Schedule(when.start, when.stop, when.every, when.participation == "frequency")
        campaigns.append(Campaign(attack, chosen[number], schedule))
        joining = sum(len(campaign.client_ids) for campaign in campaigns if campaign.schedule.joins)
        if joining > config.population.cohort_size:
            rule = f"must be pool: {joining} clients cannot join a cohort of {config.population.cohort_size}"
            raise ConfigError(f"{group}.schedule.participation", rule, when.participation, "pool")
    return tuple(campaigns)
