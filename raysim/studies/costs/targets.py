"""What the measured costs are held against. Every target is a ratio within one run, or a bound in seconds or bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysim.composition.registry import defense_title
from raysim.studies.costs.defense_cost import DefenseCost
from raysim.studies.costs.peers import PeerTime

GRAM_FACTOR = 1.6
PEER_FACTOR = 5.0
RFA_FACTOR = 1.5
CAM_FACTOR = 3.0
READ_FACTOR = 1.2
MMD_S, MMD_BYTES = 2.0, 2 * 10**9
SIMILARITIES_S = 1.0
AUTOENCODER_S = 0.2
MEMORY_FACTOR = 1.3

RFA_ITERATIONS = 4
RFA_SUBJECT = f"rfa,max_iterations={RFA_ITERATIONS},tolerance=0"
"""RFA without its early stop, so that the number of iterations is known."""

SUBJECTS = (
    "krum",
    "multi_krum",
    "flame",
    "foolsgold",
    "foolsgold,features=all",
    RFA_SUBJECT,
    "trimmed_mean",
    "median",
    "pdrr,rule=trimmed_mean",
    "pdrr,rule=median",
)
"""The defenses that have a target, as `raysim bench defenses` names them."""


@dataclass(frozen=True)
class Judged:
    """One line of the list of targets. unit: what both numbers are in, "x" for ratios."""

    what: str
    measured: float
    target: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target


def ratio(seconds: np.ndarray, limit: np.ndarray) -> float:
    """The median of the ratios, pair by pair [R]."""
    return float(np.median(seconds / limit))


def judge_defenses(costs: Sequence[DefenseCost], peers: Mapping[str, PeerTime]) -> list[Judged]:
    """The targets of the defenses measured; those against a peer where it was measured."""
    rows: list[Judged] = []
    for cost in costs:
        name = cost.label.partition(",")[0]
        similarities = cost.stage_s("gram")
        if name in ("krum", "multi_krum", "flame", "foolsgold"):
            rows.append(
                Judged(f"{cost.label}: similarities / Gram", ratio(similarities, cost.gram_s), GRAM_FACTOR)
            )
            rows += _against(
                peers,
                "krum",
                cost.label + ": ByzFL's Krum on {} / similarities",
                float(np.median(similarities)),
            )
        if name in ("krum", "multi_krum"):
            rows.append(Judged(f"{cost.label}: whole / Gram", ratio(cost.apply_s, cost.gram_s), GRAM_FACTOR))
            whole = float(np.median(cost.apply_s))
            rows += _against(peers, "krum", cost.label + ": ByzFL's Krum on {} / whole", whole)
        if name in ("trimmed_mean", "median"):
            whole = float(np.median(cost.apply_s))
            rows += _against(peers, name, cost.label + ": ByzFL's on {} / whole", whole)
        if name == "pdrr" and "counts" in cost.stages:
            rule = "median" if "rule=median" in cost.label else "trimmed_mean"
            counts = float(np.median(cost.stage_s("counts")))
            rows += _against(peers, rule, f"{cost.label}: ByzFL's {rule} on {{}} / counts", counts)
        if cost.label == RFA_SUBJECT:
            whole_ratio = ratio(cost.apply_s, cost.gram_s)
            rows.append(
                Judged(
                    f"rfa: one of {RFA_ITERATIONS} iterations / Gram",
                    whole_ratio / RFA_ITERATIONS,
                    RFA_FACTOR,
                )
            )
            rows.append(Judged("rfa: all iterations / Gram", whole_ratio, RFA_FACTOR))
    return rows


def judge_memory(costs: Sequence[DefenseCost], tile_bytes: int, model_bytes: int) -> list[Judged]:
    """The memory target: 1.3 times the tile budget plus one model, in MiB.

    Judged twice: what a task itself takes (its tiles, mapped, and the private memory its process grew by), and all that
    the largest process holds, interpreter and libraries and every tile it mapped before included.
    """
    limit = (MEMORY_FACTOR * tile_bytes + model_bytes) / 2**20
    rows = [
        Judged(f"{defense_title(cost.label)}: memory of one task", cost.task_memory / 2**20, limit, "MiB")
        for cost in costs
    ]
    if costs:
        peak = max(cost.resident_peak for cost in costs) / 2**20
        rows.append(Judged("largest process of all, libraries and mapped store included", peak, limit, "MiB"))
    return rows


def _against(peers: Mapping[str, PeerTime], rule: str, what: str, own_s: float) -> list[Judged]:
    """One line for each kind of array the peer was given; `what` has a place for the kind."""
    if rule not in peers or not own_s:
        return []
    peer = peers[rule]
    return [
        Judged(what.format(kind), float(np.median(values)) / own_s, PEER_FACTOR, at_least=True)
        for kind, values in (("torch", peer.torch_s), ("numpy", peer.numpy_s))
    ]
