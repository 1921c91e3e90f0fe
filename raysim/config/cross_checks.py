"""The rules that tie keys of different groups of the configuration together and need no component."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysim.config.keys import numbered
from raysim.errors import ConfigError

if TYPE_CHECKING:
    from raysim.config.schema import ExperimentConfig


def check_across_keys(config: ExperimentConfig) -> None:
    """ConfigError for the first rule that is broken."""
    population = config.population
    count = population.num_malicious
    if isinstance(population.malicious, float) and population.malicious >= 1 and population.malicious % 1:
        raise ConfigError(
            "population.malicious",
            "must be a whole number, or a fraction below 1",
            population.malicious,
            count,
        )
    if population.mode == "replace" and count > population.clients:
        raise ConfigError(
            "population.malicious", f"must not exceed population.clients ({population.clients})",
            population.malicious, population.clients,
        )  # fmt: skip
    if population.cohort_size > population.total:
        key = "cohort" if population.buffer is None else "buffer"
        raise ConfigError(
            f"population.{key}", f"must not exceed the population of {population.total}",
            population.cohort_size, population.total,
        )  # fmt: skip
    if (population.min_cohort or 0) > population.cohort_size:
        raise ConfigError(
            "population.min_cohort", f"must not exceed the cohort of {population.cohort_size}",
            population.min_cohort, population.cohort_size,
        )  # fmt: skip
    for key in ("deadline_s", "over_selection"):
        default = type(population).model_fields[key].default
        if population.devices is None and (value := getattr(population, key)) != default:
            rule = "needs population.devices, which says how long a client takes"
            raise ConfigError(f"population.{key}", rule, value, default)
    if population.num_asked > population.total:
        raise ConfigError(
            "population.over_selection",
            f"must not ask more than the population of {population.total}: {population.num_asked} for a cohort of "
            f"{population.cohort_size}",
            population.over_selection, population.total / population.cohort_size,
        )  # fmt: skip
    for key in ("elastic_cpus", "elastic_gpus"):
        if not config.resources.elastic and (bound := getattr(config.resources, key)) is not None:
            rule = "must be left out unless resources.elastic is true"
            raise ConfigError(f"resources.{key}", rule, bound)
    if isinstance(population.placement, list):
        ids = population.placement
        if len(set(ids)) != len(ids) or any(not 0 <= i < population.total for i in ids):
            raise ConfigError(
                "population.placement", f"must list distinct client ids from 0 to {population.total - 1}", ids
            )
        if len(ids) != count:
            raise ConfigError(
                "population.placement", f"must list as many ids as population.malicious ({count})", ids
            )
        if population.mode == "append":
            raise ConfigError(
                "population.placement", "must be last or random with population.mode=append", ids, "last"
            )
    _check_asynchronous(config)
    if not config.defense:
        raise ConfigError("defense", "must name at least one defense", None, "fedavg")
    for number, attack in enumerate(config.attack):
        group = numbered("attack", config.attack, number)
        if attack.schedule.stop is not None and attack.schedule.stop <= attack.schedule.start:
            raise ConfigError(
                f"{group}.schedule.stop", f"must be greater than {group}.schedule.start",
                attack.schedule.stop, attack.schedule.start + 1,
            )  # fmt: skip


def _check_asynchronous(config: ExperimentConfig) -> None:
    """The rules of population.buffer, and of the keys that go with it."""
    population = config.population
    if population.buffer is None:
        for group, keys in (
            ("population", ("concurrency",)),
            ("server", ("staleness", "staleness_exponent", "max_staleness")),
        ):
            chosen = getattr(config, group)
            for key in keys:
                value, default = getattr(chosen, key), type(chosen).model_fields[key].default
                if value != default:
                    rule = "needs population.buffer, the updates of an asynchronous round"
                    raise ConfigError(f"{group}.{key}", rule, value, "null" if default is None else default)
        return
    if population.devices is None:
        rule = "needs population.devices: the order of arrivals follows from their virtual seconds"
        raise ConfigError("population.buffer", rule, population.buffer, "population.devices=lognormal")
    if population.concurrency is None:
        rule = "must be given with population.buffer: how many clients train at the same time"
        raise ConfigError("population.concurrency", rule, None, min(population.buffer, _most_at_once(config)))
    synchronous = {
        "cohort": "population.buffer says how many updates a round has",
        "deadline_s": "an asynchronous round ends when population.buffer updates have arrived; to leave out late ones, set "
        "server.max_staleness",
        "over_selection": "in asynchronous rounds population.concurrency says how many clients are asked",
    }
    for key, why in synchronous.items():
        value, default = getattr(population, key), type(population).model_fields[key].default
        if value != default:
            rule = f"must be left out: {why}"
            raise ConfigError(f"population.{key}", rule, value, "null" if default is None else default)
    if population.concurrency > _most_at_once(config):
        raise ConfigError(
            "population.concurrency",
            f"must leave clients to be drawn: with a buffer of {population.buffer}, which holds a client once, of "
            f"{population.total} clients at most {_most_at_once(config)} can be under way",
            population.concurrency, _most_at_once(config),
        )  # fmt: skip
    for number, attack in enumerate(config.attack):
        if attack.schedule.participation != "pool":
            rule = "must be pool with population.buffer: who takes part follows from when updates arrive"
            key = f"{numbered('attack', config.attack, number)}.schedule.participation"
            raise ConfigError(key, rule, attack.schedule.participation, "pool")


def _most_at_once(config: ExperimentConfig) -> int:
    """How many clients can be under way, where all others but one lie in the buffer."""
    assert config.population.buffer is not None, "asked in asynchronous rounds"
    return config.population.total - config.population.buffer + 1
