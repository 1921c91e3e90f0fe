"""What the report prints: numbers computed from a run's columns, ready to be formatted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any, SupportsInt

import numpy as np

from raysim.config.schema import ScheduleConfig
from raysim.metrics import Detection
from raysim.report.finished_run import Columns

EVERY_ROUND = ScheduleConfig().model_dump()
"""The schedule of an attack that is always active."""


def detections(rounds: Columns) -> list[Detection]:
    """The recorded detection rates, one entry a round."""
    names = [field.name for field in fields(Detection)]
    return [Detection(*row) for row in zip(*(rounds[name].tolist() for name in names), strict=True)]


def rejections(clients: Columns) -> dict[str, int]:
    """How many uploads the engine itself rejected, by reason."""
    reasons, counts = np.unique(clients["reason"].astype(str), return_counts=True)
    return {str(reason): int(count) for reason, count in zip(reasons, counts, strict=True) if reason}


def ids(numbers: Iterable[SupportsInt]) -> str:
    """Client ids in words, runs of neighbours joined: 0-4, 7, 9."""
    known = sorted({int(number) for number in numbers})
    if not known:
        return "none"
    breaks = [0, *(i for i in range(1, len(known)) if known[i] != known[i - 1] + 1), len(known)]
    runs = [known[start:stop] for start, stop in pairwise(breaks)]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def with_titles(config: Mapping[str, object], titles: Mapping[str, str]) -> dict[str, object]:
    """The configuration with its defenses named as people read them: one that is shown the truth as what it is.

    titles: configured name -> title, as stored with the run; a name without one stands for itself.
    """
    chosen = config.get("defense") or []
    steps = chosen if isinstance(chosen, list) else [chosen]
    named = [step if isinstance(step, Mapping) else {"name": step} for step in steps]
    return {
        **config,
        "defense": [{**step, "name": titles.get(str(step["name"]), step["name"])} for step in named],
    }


def setting(config: Mapping[str, object], group: str) -> str:
    """What a configuration group chose, in one line: `trimmed_mean (beta 0.1)`; "none" if it is absent."""
    return _in_words(config.get(group))


def _in_words(value: object) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, list):
        joint = ", then " if any(isinstance(item, Mapping) for item in value) else " "
        return joint.join(_in_words(item) for item in value)
    if not isinstance(value, Mapping):
        return str(value)
    rest = [
        f"{key} {_in_words(item)}" for key, item in value.items() if item is not None and _telling(key, item)
    ]
    if "name" not in value:
        return ", ".join(rest)
    return f"{value['name']} ({', '.join(rest)})" if rest else str(value["name"])


def _telling(key: str, item: Any) -> bool:
    """Whether a key belongs into one line: not the name, not where data lie, not "active in every round"."""
    return key not in ("name", "root", "download") and not (
        key == "schedule" and {**EVERY_ROUND, **item} == EVERY_ROUND
    )


def flatten(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as (dotted key, text) rows: nodes[0].cpus."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flatten(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{key}[{index}]")
    elif isinstance(value, list):
        yield key, ", ".join(map(str, value)) or "none"
    else:
        yield key, "none" if value is None or value == {} else str(value)
