"""Every error raysim raises on purpose.

RaysimError
├── ConfigError      the request is wrong: refused before anything starts (exit status 2)
├── DataError        a data set is missing or malformed (exit status 2)
├── RecordError      a run directory is missing, damaged or does not fit the request (exit status 2)
└── RunError         a run failed after it started (exit status 1)
    ├── LostWork         results are gone with a node: done again, from the round or the checkpoint before
    └── ContractError    an attack or a defense returned what its contract does not allow
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 300
"""Characters of a received value that a message repeats."""


class RaysimError(Exception):
    """Base of everything below."""


class ConfigError(RaysimError, ValueError):
    """A mistake in the request: names the key, the rule, the value received and the nearest valid choice."""

    def __init__(self, key: str, rule: str, value: object = None, nearest: object = None) -> None:
        self.key, self.rule, self.value, self.nearest = key, rule, value, nearest
        message = f"{key}: {rule}; received {_shown(value)}"
        if nearest is not None:
            message += (
                f"; did you mean {nearest!r}?"
                if isinstance(nearest, str)
                else f"; nearest valid: {nearest!r}"
            )
        super().__init__(message)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[object, ...]]:
        return type(self), (self.key, self.rule, self.value, self.nearest)

    def under(self, group: str) -> ConfigError:
        """The same error with its key placed inside a configuration group (`beta` -> `defense.beta`)."""
        return ConfigError(f"{group}.{self.key}", self.rule, self.value, self.nearest)


class DataError(RaysimError):
    """A data set is not where it should be, or not what it should be; says which files to put where."""


class RecordError(RaysimError):
    """A run directory, checkpoint or recording is missing, damaged, or belongs to another request."""


class RunError(RaysimError):
    """A run failed after it started; names stage, round and client where known."""

    def __init__(
        self, problem: str, *, stage: str | None = None, round: int | None = None, client: int | None = None
    ) -> None:
        self.problem, self.stage, self.round, self.client = problem, stage, round, client
        where = [
            f"{name} {value}"
            for name, value in (("round", round), ("stage", stage), ("client", client))
            if value is not None
        ]
        super().__init__(f"{', '.join(where)}: {problem}" if where else problem)

    def located(self, *, stage: str | None = None, round: int | None = None) -> RunError:
        """The same error with the place filled in if it was unknown."""
        return type(self)(
            self.problem,
            stage=self.stage if self.stage is not None else stage,
            round=self.round if self.round is not None else round,
            client=self.client,
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_run_error, (type(self), self.problem, self.stage, self.round, self.client)


class LostWork(RunError):
    """Results that tasks had left on a node are gone with it. A round is a pure function of the state before
    it, so it can be done again.
    """


class ContractError(RunError):
    """An attack or a defense returned what its contract does not allow; `of` words it."""

    @classmethod
    def of(cls, method: str, field: str, rule: str, received: str, hint: str = "") -> ContractError:
        """Names the method, what it returned (`flagged`), the rule, what came instead and, where known, the way out."""
        return cls(f"{method}: {field} {rule}; received {received}" + (f"; {hint}" if hint else ""))


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(key: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that no table holds."""
    names = sorted(known)
    return ConfigError(key, f"must be one of {', '.join(names)}", name, nearest_name(name, names))


def _shown(value: object) -> str:
    """The value as Python writes it; the beginning of what is long, and the type of what cannot be written."""
    try:
        text = repr(value)
    except Exception:  # a whole number of thousands of digits, or a class whose repr fails
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _rebuild_run_error(
    kind: type[RunError], problem: str, stage: str | None, round: int | None, client: int | None
) -> RunError:
    return kind(problem, stage=stage, round=round, client=client)
