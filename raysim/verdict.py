"""What a defense concluded about a round, the check of it, and verdicts on rows that were merged or left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import DTypeLike

from raysim.array_checks import as_array, described
from raysim.context import State
from raysim.errors import ContractError
from raysim.matrix.updates import Updates

SHARES_ROUNDING = 1e-4
"""How far above 1 rounding may take the sum of a verdict's weights, float32 included."""


@dataclass(frozen=True)
class Verdict:
    """What a defense concluded about one round's K updates, in the order of `updates.client_ids`.

    aggregate [d] float32, finite: the change to add to the global parameters.
    weights [K]: the share each row had: finite, at least 0, with a sum of at most 1 (0 = rejected, all 0 = nobody
    accepted), also where the aggregate is longer or shorter than that mean; None for coordinate-wise rules.
    Buffers such as BatchNorm's statistics follow them.
    scores [K] numbers: higher = more suspicious; infinity is allowed, and NaN, which ranks above all: what cannot
    be scored is most suspicious. None if the method has no score.
    flagged [K] bool, a mask: judged malicious; None if the method does not exclude clients.
    artifacts: arrays of numbers by name, for the report: heat maps, similarity matrices.
    threshold: the score that divides suspects from others in this round; None if the rule is not a comparison with one
    number. A vote over rounds, or trust, may flag otherwise.

    Flags and weights are separate statements: FLARE lowers the weight of a flagged client without taking it to 0,
    Krum leaves out clients that it does not accuse, and an aggregate may be other than 0 with all weights 0 (the
    server's own update). `checked_answer` holds all of it against these rules.
    """

    aggregate: np.ndarray
    weights: np.ndarray | None = None
    scores: np.ndarray | None = None
    flagged: np.ndarray | None = None
    artifacts: Mapping[str, np.ndarray] = field(default_factory=dict)
    threshold: float | None = None


def checked_answer(method: str, answer: object, count: int, dim: int) -> tuple[Verdict, State]:
    """What `apply` of `method` returned for K = count rows of d = dim columns, as arrays that Verdict's rules hold for.

    Raises ContractError, which names the method, the field, the rule and the value.
    """

    def refusal(field: str, rule: str, received: str, hint: str = "") -> ContractError:
        return ContractError.of(method, field, rule, received, hint)

    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Verdict)):
        raise refusal("its answer", "must be a pair (Verdict, state)", described(answer))
    verdict, state = answer
    if not isinstance(state, dict):
        raise refusal("its state", "must be a dict", described(state), "return {} if nothing is remembered")

    def numbers_of(field: str, size: int, what: str) -> np.ndarray:
        rule = f"must be {size} numbers, one per {what}"
        values = as_array(getattr(verdict, field))
        if values is None or values.shape != (size,) or values.dtype.kind not in "iuf":
            raise refusal(field, rule, described(getattr(verdict, field)))
        return values

    def refuse_at(field: str, rule: str, values: np.ndarray, good: np.ndarray) -> None:
        if not good.all():
            place = int(np.argmin(good))
            raise refusal(field, rule, f"{values[place]} at place {place}")

    aggregate = numbers_of("aggregate", dim, "parameter")
    with np.errstate(over="ignore"):
        aggregate = aggregate.astype(np.float32, copy=False)
    refuse_at("aggregate", "must be finite in float32", aggregate, np.isfinite(aggregate))
    weights = scores = flagged = None
    if verdict.weights is not None:
        weights = numbers_of("weights", count, "client")
        refuse_at("weights", "must be finite", weights, np.isfinite(weights))
        refuse_at("weights", "must be at least 0", weights, weights >= 0)
        if weights.sum() > 1 + SHARES_ROUNDING:
            hint = "give the shares of the rows, weights / weights.sum()"
            raise refusal("weights", "must have a sum of at most 1", f"a sum of {weights.sum():g}", hint)
    if verdict.scores is not None:
        scores = numbers_of("scores", count, "client")
    if verdict.flagged is not None:
        flagged = as_array(verdict.flagged)
        if flagged is None or flagged.shape != (count,) or flagged.dtype != bool:
            hint = f"for places or client ids make a mask, [{count}] False, True at the flagged"
            raise refusal(
                "flagged",
                f"must be a mask of {count} booleans, one per client",
                described(verdict.flagged),
                hint,
            )
    threshold = verdict.threshold
    if threshold is not None:
        single = as_array(threshold)
        if single is None or single.shape != () or single.dtype.kind not in "iuf" or np.isnan(single):
            raise refusal("threshold", "must be one number, or None", described(threshold))
        threshold = float(single)
    artifacts = _checked_artifacts(verdict.artifacts, refusal)
    return Verdict(aggregate, weights, scores, flagged, artifacts, threshold), state


def checked_transform(
    method: str, answer: object, before: Updates
) -> tuple[Updates, np.ndarray | None, State]:
    """What `transform` of `method` made of the K rows `before`: rows of as many columns, where each went, a state.

    Raises ContractError, which names the method, the field, the rule and the value.
    """

    def refusal(field: str, rule: str, received: str, hint: str = "") -> ContractError:
        return ContractError.of(method, field, rule, received, hint)

    if not (isinstance(answer, tuple) and len(answer) == 3 and isinstance(answer[0], Updates)):
        raise refusal(
            "its answer", "must be three things, (Updates, members or None, state)", described(answer)
        )
    changed, members, state = answer
    if not isinstance(state, dict):
        hint = "return {} if nothing is remembered"
        raise refusal("its state", "must be a dict", described(state), hint)
    columns = before.layout.num_columns
    if (changed.bounds, changed.layout.num_columns) != (before.bounds, columns):
        rule = f"must be cut at columns {before.bounds}, {columns} in all"
        received = f"rows cut at {changed.bounds}, {changed.layout.num_columns} in all"
        raise refusal("updates", rule, received, "derive them from the updates it is given")
    count, left = before.num_clients, changed.num_clients
    if members is None:
        if not np.array_equal(changed.client_ids, before.client_ids):
            rule = "must say where each row went, unless the rows are still those of the same clients in the same order"
            raise refusal("members", rule, f"None, with {left} rows for {count}")
        return changed, None, state
    places = as_array(members)
    if places is None or places.shape != (count,) or places.dtype.kind not in "iu":
        rule = f"must be {count} whole numbers, one per row it was given"
        raise refusal("members", rule, described(members), "-1 for a row that is left out")
    places = places.astype(np.int64)
    if ((places < -1) | (places >= left)).any():
        place = int(np.argmax((places < -1) | (places >= left)))
        rule = f"must lie in [-1, {left - 1}], the places of its {left} rows"
        raise refusal("members", rule, f"{places[place]} at place {place}")
    if len(empty := np.setdiff1d(np.arange(left), places)):
        raise refusal("members", "must name every new row", f"none for row {empty[0]} of {left}")
    return changed, places, state


def _checked_artifacts(artifacts: object, refusal: Callable[..., ContractError]) -> Mapping[str, np.ndarray]:
    if not isinstance(artifacts, Mapping):
        raise refusal("artifacts", "must be a mapping of names to arrays", described(artifacts))
    found = {}
    for name, value in artifacts.items():
        if not (isinstance(name, str) and re.fullmatch(r"[^./\0][^/\0]*", name)):
            raise refusal("artifacts", "must have names that files can have", repr(name))
        array = as_array(value)
        if array is None or array.dtype.kind not in "biufc":
            raise refusal(f"artifacts[{name!r}]", "must be an array of numbers", described(value))
        found[name] = array
    return found


def expand(verdict: Verdict, accepted: np.ndarray, score: np.ndarray | None = None) -> Verdict:
    """A verdict on the rows `accepted` (mask [K]) as one on all K rows: the others are flagged, weight 0.

    score [K]: what the left-out rows are given; +inf where it is None.
    """
    count = len(accepted)

    def spread(values: np.ndarray | None, other: float, dtype: DTypeLike) -> np.ndarray | None:
        if values is None:
            return None
        out = np.full(count, other, dtype)
        out[accepted] = values
        return out

    scores = spread(verdict.scores, np.inf, np.float64)
    if scores is not None and score is not None:
        scores[~accepted] = score[~accepted]
    flagged = spread(verdict.flagged, True, bool)
    if flagged is None and not accepted.all():
        flagged = ~accepted
    return replace(verdict, weights=spread(verdict.weights, 0.0, np.float64), scores=scores, flagged=flagged)


def carry_back(verdict: Verdict, members: np.ndarray) -> Verdict:
    """A verdict on merged rows as one on the rows that went into them (members [K]; -1 = left out)."""
    inside = members >= 0
    sizes = np.bincount(members[inside], minlength=int(members.max(initial=-1)) + 1)

    def follow(values: np.ndarray | None, left_out: float) -> np.ndarray | None:
        return None if values is None else np.where(inside, np.asarray(values)[members], left_out)

    weights = follow(verdict.weights, 0.0)
    if weights is not None:
        weights = np.where(inside, weights / np.maximum(sizes[members], 1), 0.0)
    flagged = follow(verdict.flagged, True)
    if flagged is None and not inside.all():
        flagged = ~inside
    return replace(verdict, weights=weights, scores=follow(verdict.scores, np.inf), flagged=flagged)
