"""Where a run's clients are hosted and on what they train: written down, and the same when a run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from raysim.backends.devices import kind
from raysim.config.schema import ExperimentConfig
from raysim.errors import RunError
from raysim.runs.directory import RunDirectory


def common_places(places: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """An entry for every kind of place that `Backend.client_places` names, with the number of its actors."""
    actors = Counter(
        tuple(
            (key, tuple(value) if isinstance(value, list) else value)
            for key, value in place.items()
            if key != "pid"
        )
        for place in places
    )
    return [{**dict(place), "actors": count} for place, count in actors.items()]


def keep_places(directory: RunDirectory, places: Sequence[Mapping[str, object]], round: int) -> None:
    """Write where clients train into environment.json; RunError if earlier rounds trained on another kind of device.

    Devices round differently, so that the run would be neither's.
    """
    known = directory.environment().get("clients_train_on", [])
    before, now = ({kind(str(place["device"])) for place in part} for part in (known, places))
    if round and before and before != now:
        raise RunError(
            f"rounds 0 to {round - 1} trained on {'/'.join(before)}, and here clients would train on {'/'.join(now)}: "
            f"the digest would be that of neither; resume with the same kind of device",
            round=round,
        )
    directory.extend_environment(clients_train_on=places)


def remarks(config: ExperimentConfig, places: Sequence[Mapping[str, object]]) -> list[str]:
    """What the user must be told: one sentence for every reason why an assigned GPU is not used."""
    if config.resources.device == "cpu":
        return []
    reasons = dict.fromkeys(
        f"node {place['node']} has been assigned GPUs, but {place['reason']} there: its clients train on CPUs"
        for place in places
        if place.get("reason")
    )
    return list(reasons)
