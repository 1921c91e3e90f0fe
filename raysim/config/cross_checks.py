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
        raise ConfigError(
            "population.cohort", f"must not exceed the population of {population.total}",
            population.cohort, population.total,
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
    if not config.defense:
        raise ConfigError("defense", "must name at least one defense", None, "fedavg")
    for number, attack in enumerate(config.attack):
        group = numbered("attack", config.attack, number)
        if attack.schedule.stop is not None and attack.schedule.stop <= attack.schedule.start:
            raise ConfigError(
                f"{group}.schedule.stop", f"must be greater than {group}.schedule.start",
                attack.schedule.stop, attack.schedule.start + 1,
            )  # fmt: skip
