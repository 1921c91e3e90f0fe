"""The composition root: the one module that knows attacks and defenses by name.

`compose` turns a configuration into an experiment, or refuses it: every check that does not need a running
backend happens here, before any process is started.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from attacks import ATTACKS
from defenses import DEFENSES
from raysim import data as datasets
from raysim import rng
from raysim.attack import Attack
from raysim.client import Campaign, HostPlan, Schedule
from raysim.config import PRESETS, Component, ExperimentConfig, preset_names, read_yaml
from raysim.context import ServerData, Setting, TrainingRecipe
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.partition import PARTITIONS, Partition
from raysim.defense import Defense, chain
from raysim.errors import ConfigError, unknown_name
from raysim.layout import Layout
from raysim.models import MODELS
from raysim.models.recipe import ModelRecipe
from raysim.simulation import Experiment
from raysim.updates import CHUNK_VALUES, shard_bounds

Method = TypeVar("Method")


@dataclass(frozen=True)
class Capacity:
    """What the backend offers, for the `auto` rules and the refusal of over-subscription."""

    cpus: int = 1
    gpus: float = 0.0
    object_store_bytes: int = 0
    """0: no object store (in-process)."""


def catalogue(kind: str) -> Mapping[str, str]:
    """Name -> one-line description, for `raysim list KIND`."""
    tables: Mapping[str, Mapping[str, Any]] = {
        "attacks": ATTACKS,
        "defenses": DEFENSES,
        "datasets": datasets.DATASETS,
        "partitions": PARTITIONS,
    }
    if kind == "models":
        return {name: architecture.description for name, architecture in MODELS.items()}
    if kind == "presets":
        return {name: _preset_description(name) for name in preset_names()}
    if kind not in tables:
        raise unknown_name("list", kind, [*tables, "models", "presets"])
    return {name: (inspect.getdoc(thing) or "").partition("\n")[0] for name, thing in tables[kind].items()}


def make(
    group: str, table: Mapping[str, type[Method]], component: Component, base: type | None = None
) -> Method:
    """The component's class with its options, every key and type checked.

    A name with a colon is an import path, `package.module:Class`.
    """
    cls = _imported(group, component.name, base) if ":" in component.name else table.get(component.name)
    if cls is None:
        raise unknown_name(f"{group}.name", component.name, table)
    fields = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for option in component.options:
        if option not in fields:
            raise (
                unknown_name(f"{group}.{option}", option, fields)
                if fields
                else ConfigError(f"{group}.{option}", f"{component.name} has no options", option)
            )
    try:
        return TypeAdapter(cls).validate_python(component.options)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise cause.under(group) from None
        key = ".".join([group, *map(str, first["loc"])])
        raise ConfigError(key, first["msg"].removeprefix("Input ").lower(), first["input"]) from None


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
    return ExperimentConfig.from_mapping(values)


def _defaults(method: Any) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}


def make_defense(config: ExperimentConfig) -> Defense:
    """The defense, or the chain of them."""
    several = len(config.defense) > 1
    return chain(
        *(
            make(f"defense.{number}" if several else "defense", DEFENSES, component, Defense)
            for number, component in enumerate(config.defense)
        )
    )


def compose(config: ExperimentConfig, capacity: Capacity | None = None) -> Experiment:
    """The experiment a configuration describes; ConfigError or DataError where it describes none."""
    capacity = capacity or Capacity()
    defense = make_defense(config)
    malicious = place_malicious(config)
    campaigns = make_campaigns(config, malicious)
    source = datasets.load(
        config.data.name,
        config.data.root,
        limit=config.data.limit,
        download=config.data.download,
        seed=config.seed,
        **config.data.options,
    )
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
    setting = Setting(
        population=config.population.total,
        cohort=config.population.cohort_size,
        num_malicious=len(malicious),
        rounds=config.rounds,
        num_classes=source.num_classes,
        server_samples=len(server_data) if server_data else 0,
    )
    with _keys_under("defense"):
        defense.check(setting)
    with _keys_under("attack"):
        for campaign in campaigns:
            campaign.attack.check(setting)
    config = resolved(written_out(config), layout, capacity)
    partition: Partition = make("data.partition", PARTITIONS, config.data.partition).split(
        source.train.labels[train_pool],
        config.population.total,
        rng.generator(config.seed, "partition"),
        None if source.owners is None else source.owners[train_pool],
    )
    tests = [test]
    for campaign in campaigns:
        with _keys_under("attack"):
            triggered = campaign.attack.triggered_test(test)
        if triggered is not None:
            if not len(triggered):
                raise ConfigError(
                    "attack", "its target leaves no test sample to measure attack success on", 0
                )
            tests.append(triggered)
    plan = HostPlan(
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
        campaigns=campaigns,
        bounds=_bounds(config, layout),
        evaluation_batch=config.evaluation.batch_size,
    )
    return Experiment(
        config=config,
        plan=plan,
        initial=layout.vector(model),
        defense=defense,
        server_data=server_data,
        sizes=partition.sizes,
        malicious=malicious,
        arrays=(
            source.train.images,
            source.train.labels,
            train_pool[partition.indices],
            partition.offsets,
            *(array for part in tests for array in (part.images, part.labels)),
        ),
        test_sizes=tuple(len(part) for part in tests),
    )


def place_malicious(config: ExperimentConfig) -> np.ndarray:
    """Sorted ids of the malicious clients."""
    population = config.population
    count = population.num_malicious
    if isinstance(population.placement, list):
        return np.sort(np.array(population.placement, np.int64))
    if population.placement == "last" or population.mode == "append":
        return np.arange(population.total - count, population.total)
    return np.sort(rng.generator(config.seed, "placement").choice(population.total, count, replace=False))


def make_campaigns(config: ExperimentConfig, malicious: np.ndarray) -> tuple[Campaign, ...]:
    """The attacks, each with the malicious clients it commands.

    Clients not named go, in order, to attacks with a count; an attack without `clients` takes all the rest.
    """
    if config.attack and not len(malicious):
        raise ConfigError("population.malicious", "must be at least 1 when there is an attack", 0, 1)
    free = list(malicious)
    chosen: list[list[int] | None] = []
    for number, item in enumerate(config.attack):
        key = "attack.clients" if len(config.attack) == 1 else f"attack.{number}.clients"
        wanted = item.clients
        if wanted is None:
            chosen.append(None)
            continue
        ids = list(free[:wanted]) if isinstance(wanted, int) else [i for i in wanted if i in free]
        if len(ids) != (wanted if isinstance(wanted, int) else len(wanted)) or not ids:
            raise ConfigError(
                key, "must name malicious clients that no other attack commands", wanted, len(free)
            )
        free = [i for i in free if i not in ids]
        chosen.append(ids)
    campaigns = []
    for number, (item, ids_of) in enumerate(zip(config.attack, chosen, strict=True)):
        group = "attack" if len(config.attack) == 1 else f"attack.{number}"
        ids = ids_of if ids_of is not None else free
        if not ids:
            raise ConfigError(f"{group}.clients", "no malicious client is left for this attack", item.clients)
        if ids_of is None:
            free = []
        schedule = Schedule(item.schedule.start, item.schedule.stop, item.schedule.every)
        campaigns.append(
            Campaign(make(group, ATTACKS, item, Attack), np.sort(np.array(ids, np.int64)), schedule)
        )
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


def resolved(config: ExperimentConfig, layout: Layout, capacity: Capacity) -> ExperimentConfig:
    """The configuration with every `auto` decided by a rule, and impossible reservations refused."""
    resources = config.resources
    cohort = config.population.cohort_size
    tile_bytes = resources.tile_bytes
    if tile_bytes == "auto":
        # A shard of K rows is one object set; sixteen of them must fit the store beside the rest of a round.
        tile_bytes = 4 * CHUNK_VALUES
        if capacity.object_store_bytes:
            tile_bytes = max(2**20, min(tile_bytes, capacity.object_store_bytes // 16))
    for key, share, held in (
        ("client_gpus", resources.client_gpus, capacity.gpus),
        ("client_cpus", resources.client_cpus, max(capacity.cpus - 1, 0)),
    ):
        if share * cohort > held + 1e-9:
            what = "GPUs" if key == "client_gpus" else "CPUs (one is kept for the detection tasks)"
            raise ConfigError(
                f"resources.{key}",
                f"{cohort} clients with {share:g} each need {share * cohort:g}, and there are {held:g} {what}",
                share,
                int(held / cohort * 1e4) / 1e4,
            )
    per_actor = resources.clients_per_actor
    if per_actor == "auto" and resources.client_gpus:
        per_actor = max(1, min(int(1 / resources.client_gpus + 1e-9), -(-cohort // max(capacity.cpus, 1))))
    if (
        isinstance(per_actor, int)
        and per_actor > 1
        and resources.client_gpus * min(per_actor, cohort) > 1 + 1e-9
    ):
        raise ConfigError(
            "resources.clients_per_actor",
            f"an actor reserves the sum of its clients' client_gpus={resources.client_gpus:g}, at most one GPU",
            per_actor,
            int(1 / resources.client_gpus + 1e-9),
        )
    device = resources.device
    if device == "auto":
        device = "cuda" if capacity.gpus and _cuda() else "cpu"
    elif device == "cuda" and not _cuda():
        raise ConfigError("resources.device", "torch finds no CUDA device here", device, "cpu")
    assert isinstance(tile_bytes, int), "decided above"
    bounds = shard_bounds(cohort, layout.dim, tile_bytes)
    return config.with_values(
        population={"cohort": cohort},
        resources={
            "tile_bytes": tile_bytes,
            "column_shards": len(bounds) - 1,
            "clients_per_actor": per_actor,
            "device": device,
        },
    )


def _bounds(config: ExperimentConfig, layout: Layout) -> tuple[int, ...]:
    tile_bytes = config.resources.tile_bytes
    assert isinstance(tile_bytes, int), "resolved before"
    return shard_bounds(config.population.cohort_size, layout.dim, tile_bytes)


@contextmanager
def _keys_under(group: str) -> Iterator[None]:
    """Put the keys of ConfigErrors raised inside into their configuration group."""
    try:
        yield
    except ConfigError as error:
        raise (error if "." in error.key else error.under(group)) from None


def _imported(group: str, path: str, base: type | None) -> Any:
    module_name, _, class_name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{group}.name", f"must be importable ({problem})", path) from error
    if base is not None and not (
        isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)
    ):
        raise ConfigError(
            f"{group}.name", f"must name a dataclass that derives from raysim.{base.__name__}", path
        )
    return cls


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _preset_description(name: str) -> str:
    for line in (PRESETS / f"{name}.yaml").read_text().splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").strip()
    return ", ".join(
        f"{group} {value.get('name')}"
        for group, value in read_yaml(name).items()
        if isinstance(value, dict) and "name" in value
    )
