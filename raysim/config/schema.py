"""The experiment configuration: typed, frozen, YAML, dotted overrides.

Groups and keys are the public contract. Attacks, defenses, models, data sets and partitions are *components*:
a `name` and that component's own options side by side (`defense: {name: krum, num_byzantine: 3}`); the options
are checked against the component when the experiment is composed (raysim.composition).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
)

from raysim.config.cross_checks import check_across_keys
from raysim.config.group import LARGEST as LARGEST
from raysim.config.group import Component as Component
from raysim.config.group import Group as Group
from raysim.config.group import Whole, named
from raysim.config.training import ServerConfig, TrainingConfig
from raysim.config.validation import Location, refusal
from raysim.errors import ConfigError
from raysim.trees import Tree

MOST_CLIENTS = 10**7


class ScheduleConfig(Group):
    """When an attack is active: rounds start, start + every, ... before stop (null: to the end)."""

    start: Whole = Field(0, ge=0, description="first active round, from 0")
    stop: Whole | None = Field(
        None, ge=1, description="first round that is no longer active; null: to the end"
    )
    every: Whole = Field(1, ge=1, description="rounds from one active round to the next")
    participation: Literal["pool", "frequency"] = Field(
        "pool", description="pool: its clients are drawn like all; frequency: they join every active round"
    )


class AttackConfig(Component):
    """An attack: its options, when it is active, and which of the malicious clients it commands (null: all)."""

    schedule: ScheduleConfig = ScheduleConfig()
    clients: Whole | list[Whole] | None = Field(
        None, description="malicious clients it commands: a count, or their ids; null: all that are left"
    )


class PopulationConfig(Group):
    """Who takes part."""

    clients: int = Field(
        24, ge=1, le=MOST_CLIENTS, description="clients in all; see `mode` for the malicious ones"
    )
    cohort: Whole | None = Field(None, ge=1, description="clients sampled each round; null: all")
    malicious: Whole | float = Field(0, ge=0, description="a count, or a fraction below 1 of `clients`")
    placement: Literal["last", "random"] | list[Whole] = Field(
        "last",
        description="which clients are malicious: the last ids, ids drawn from the seed, or those listed",
    )
    min_cohort: Whole | None = Field(
        None,
        ge=1,
        description="usable uploads that a round needs; with fewer it does not count: the global model stays; null: 1",
    )
    on_client_error: Literal["stop", "drop"] = Field(
        "stop",
        description="a client whose code raises: stop: the run fails and names it; drop: it is a recorded dropout",
    )
    mode: Literal["replace", "append"] = Field(
        "replace", description="replace: the malicious are among `clients`; append: they come on top of them"
    )
    devices: Annotated[Component | None, BeforeValidator(named)] = Field(
        None, description="what clients run on, which makes virtual time; null: nothing is known of it"
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        description="virtual seconds from the start of a round after which the server waits for nobody: later clients are "
        "recorded dropouts, and are not trained; null: none",
    )
    over_selection: float = Field(
        1.0,
        ge=1,
        le=100,
        description="this multiple of `cohort`, rounded down, is asked, and the first `cohort` that answer are taken; "
        "the others are not trained",
    )
    buffer: Whole | None = Field(
        None,
        ge=1,
        description="asynchronous rounds (FedBuff): the server aggregates whenever this many updates have arrived; null: "
        "synchronous rounds, of `cohort` clients",
    )
    concurrency: Whole | None = Field(
        None,
        ge=1,
        description="clients that train at the same time in asynchronous rounds; each that ends is replaced by another",
    )

    @property
    def num_malicious(self) -> int:
        """The number of malicious clients."""
        if isinstance(self.malicious, float) and self.malicious < 1:
            return round(self.malicious * self.clients)
        return int(self.malicious)

    @property
    def total(self) -> int:
        """All clients, malicious ones included."""
        return self.clients + (self.num_malicious if self.mode == "append" else 0)

    @property
    def cohort_size(self) -> int:
        """Clients in a round, at most; in asynchronous rounds the updates in a buffer."""
        return self.buffer or self.cohort or self.total

    @property
    def num_asked(self) -> int:
        """Clients that the server asks in a round."""
        return int(round(self.cohort_size * self.over_selection, 9))


class ModelConfig(Component):
    """Which network is trained, and what it starts from."""

    weights: str | None = Field(
        None,
        description="file of a state_dict (.safetensors, or .pth and .pt of torch) that the run starts from; null: values "
        "drawn from the seed",
    )
    weights_digest: str | None = Field(None, description="filled in: SHA-256 of that file")
    fresh: list[str] = Field(
        default_factory=list,
        description="names, or beginnings of names up to a dot, that keep their drawn values beside `weights`: a head for "
        "other classes",
    )


class DataConfig(Component):
    """Which data, where it lies, how it is split among clients."""

    name: str = Field(
        "digits", description="a registered data set, or an import path `package.module:loader`"
    )
    root: str | None = Field(None, description="null: $RAYSIM_DATA, then the user's cache folder")
    partition: Annotated[Component, BeforeValidator(named)] = Field(
        Component(name="iid"), description="without effect with `updates: synthetic`: then nobody trains"
    )
    limit: Whole | None = Field(None, ge=1, description="use at most this many training samples")
    download: bool = Field(False, description="let torchvision fetch a data set that is missing")


class ServerDataConfig(Group):
    """Samples the server itself holds, which no client has: probe images, root and validation sets."""

    samples: Whole = Field(100, ge=0, description="how many samples; 0: the server holds none")
    classes: list[Whole] | None = Field(None, description="draw from these classes only; null: all")
    source: Literal["train", "test"] = Field("train", description="which split they are taken out of")


class ResourcesConfig(Group):
    """Where the work runs. No key changes a result, but for lost or late clients, and devices, which round differently."""

    client_cpus: float = Field(0.0, ge=0, description="CPU share of one client while it trains")
    client_gpus: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a GPU of one client while it trains: as many train at once as fit, and the cohort "
        "takes turns; 0: nothing is reserved",
    )
    clients_per_actor: Literal["auto"] | Annotated[int, Field(ge=1, le=LARGEST)] = Field(
        "auto",
        description="1: an actor, and a reservation, for every client; auto: as many actors as fit, "
        "and at most four per CPU",
    )
    server_gpus: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="GPUs kept for detection stages that can use one; auto: none, client actors compute them on "
        "theirs while they wait; 0: on CPUs",
    )
    elastic: bool = Field(
        False,
        description="machines may join: reservations may exceed what the cluster has now, and wait for an autoscaler; "
        "what there is is counted again before each round",
    )
    elastic_cpus: Whole | None = Field(
        None,
        ge=1,
        description="CPUs that an autoscaler brings the cluster to, at most; null: what it tells Ray, else any",
    )
    elastic_gpus: Whole | None = Field(
        None,
        ge=1,
        description="GPUs that an autoscaler brings the cluster to, at most; null: what it tells Ray, else any",
    )
    runtime_env: dict[str, object] | None = Field(
        None,
        description="Ray's runtime environment of all processes, for code and packages that other machines lack: "
        "{py_modules: [helpers.py], working_dir: ., env_vars: {...}, pip: [...]}; on Ray alone; "
        "recorded with the run, so no place for secrets",
    )
    client_timeout_s: float | None = Field(
        None,
        gt=0,
        description="seconds that a client which trains alone may take (attackers, large models) before it is a "
        "recorded dropout; a call of n clients that never comes back is ended after n times that and a minute; null: any",
    )
    lost_clients: Literal["split", "drop"] = Field(
        "split",
        description="clients of a call whose process was killed time and again, also for want of memory: split: they "
        "are tried in ever smaller calls; drop: all are recorded dropouts",
    )
    threads: Whole = Field(1, ge=1, description="BLAS and torch threads of every process")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where clients train and are evaluated, and stages that can use a GPU; auto: one where the process "
        "that does the work finds it; digests differ by device",
    )
    placement: Literal["data", "head", "spread"] = Field(
        "data",
        description="where tasks run on Ray: data: on the node that holds what they read; head: the server's; "
        "spread: all in turn",
    )
    pipeline: bool = Field(
        False,
        description="start a defense's work on single rows as they arrive and, on Ray, evaluate a round while the "
        "next one trains; spans then overlap: leave it off to study costs",
    )
    gather_bytes: Whole = Field(
        2**30,
        ge=0,
        description="bytes of uploads that may be under way, while clients still train, to the nodes that will read them "
        "column by column, where a defense does; 0: they are brought once the last client has ended",
    )
    metrics: bool = Field(
        False,
        description="tell Prometheus, through Ray, seconds and memory of every stage, by stage and node, as rounds end; on "
        "Ray alone",
    )
    tile_bytes: Literal["auto"] | Annotated[int, Field(ge=4096, lt=2**63)] = Field(
        "auto", description="size of K rows in one column shard, and of one upload call; auto: a rule"
    )
    column_shards: Whole | None = Field(None, ge=1, description="filled in: the number of column shards")


class RecordConfig(Group):
    """What is kept besides the tables."""

    updates: bool = Field(False, description="keep every round's updates, for `raysim replay`")
    heat_maps: bool = Field(True, description="keep the defense's arrays (heat maps, similarity matrices)")
    every: Whole = Field(1, ge=1, description="rounds from one that is kept to the next")


class EvaluationConfig(Group):
    """Main accuracy and attack success."""

    every: Whole = Field(
        1, ge=1, description="rounds from one evaluation to the next; the last round always is"
    )
    batch_size: Whole = Field(64, ge=1, description="test samples in a forward pass")


class CheckpointConfig(Group):
    """How often the whole state is saved (the last round always is), and how many are kept."""

    every: Whole = Field(10, ge=1, description="rounds from one checkpoint to the next")
    keep: Whole = Field(2, ge=1, description="checkpoints that are kept, the newest ones")


def _list_of_components(value: object) -> object:
    value = named(value)
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(named(item) for item in value)
    return (value,)


class ExperimentConfig(Group):
    """One experiment, whole. See the groups for their keys.

    >>> ExperimentConfig(population={"clients": 10, "malicious": 0.2}).population.num_malicious
    2
    """

    seed: int = Field(0, ge=0, lt=2**64, description="every random draw derives from it")
    rounds: Whole = Field(10, ge=1, description="rounds in all")
    population: PopulationConfig = PopulationConfig()
    data: Annotated[DataConfig, BeforeValidator(named)] = DataConfig()
    model: Annotated[ModelConfig, BeforeValidator(named)] = ModelConfig(name="digits_cnn")
    updates: Annotated[Component, BeforeValidator(named)] = Field(
        Component(name="trained"),
        description="trained, or synthetic: drawn from the seed (engine/drawn_updates.py)",
    )
    training: TrainingConfig = TrainingConfig()
    server: ServerConfig = ServerConfig()
    attack: Annotated[tuple[AttackConfig, ...], BeforeValidator(_list_of_components)] = ()
    defense: Annotated[tuple[Component, ...], BeforeValidator(_list_of_components)] = (
        Component(name="fedavg"),
    )
    server_data: ServerDataConfig = ServerDataConfig()
    resources: ResourcesConfig = ResourcesConfig()
    record: RecordConfig = RecordConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refusal(error, partial(_dotted, values), type(self)) from None
        check_across_keys(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> ExperimentConfig:
        """From nested dicts, as YAML gives them."""
        for key in values:
            if not isinstance(key, str):
                raise ConfigError("config", "must have the names of groups as its keys", key)
        return cls(**values)

    def to_mapping(self) -> Tree:
        """Nested dicts; one attack or defense stands alone, several as a list."""
        values = self.model_dump(mode="json")
        for group in ("attack", "defense"):
            items = values[group]
            values[group] = None if not items else items[0] if len(items) == 1 else items
        return values

    def to_yaml(self) -> str:
        """The configuration as YAML, every key written out."""
        return yaml.safe_dump(self.to_mapping(), sort_keys=False)

    def with_values(self, **groups: Mapping[str, object]) -> ExperimentConfig:
        """A copy with keys of groups replaced: `config.with_values(resources={"threads": 2})`."""
        values: Tree = self.to_mapping()
        for group, changes in groups.items():
            values[group] = {**values[group], **changes}
        return type(self).from_mapping(values)

    def filled_in(self, **groups: Mapping[str, object]) -> ExperimentConfig:
        """A copy with keys of groups decided by rules, whose values are right by construction: nothing is checked."""
        changed = {group: getattr(self, group).model_copy(update=keys) for group, keys in groups.items()}
        return self.model_copy(update=changed)


def _dotted(values: Mapping[str, object], location: Location) -> str:
    """The key as it was written: one attack or defense alone has no number."""
    if len(location) > 1 and isinstance(location[1], int):
        items = values[str(location[0])]
        if not isinstance(items, list | tuple):
            location = [location[0], *location[2:]]
    return ".".join(map(str, location))
