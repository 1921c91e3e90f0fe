"""What an attack's `craft` costs on a matrix that is there already, beside a defense's pass over the same matrix."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raysim.attack import Attack, View, Visibility
from raysim.composition.registry import make
from raysim.config.method_text import parse_method
from raysim.config.schema import Component
from raysim.defense import judged
from raysim.engine.crafting import crafted
from raysim.errors import ConfigError
from raysim.studies.costs.subjects import Subject, check_subjects, setting_of
from raysim.studies.limits import gram_product
from raysim.studies.matrix import Matrix
from raysim.studies.memory import task_memory
from raysim.studies.timing import Clock, seconds


@dataclass(frozen=True)
class CraftCost:
    """Seconds [R] of `craft` and, measured directly before each, of a defense's `apply` and of the Gram limit."""

    label: str
    craft_s: np.ndarray
    defense_s: np.ndarray
    gram_s: np.ndarray
    said: Mapping[str, object]
    """What the attack says of its last round."""
    task_memory: int
    """The most private memory that one process took, plus the tiles of its largest task."""


def parse_attacks(words: Sequence[str]) -> list[tuple[str, Attack]]:
    """(label, attack) of each `name` or `name,key=value,...`; ConfigError for one that crafts nothing."""
    from attacks.table import ATTACKS

    found = []
    for word in words:
        attack = make("attack", ATTACKS, Component(**parse_method("attack", word)), Attack)
        if type(attack).craft is Attack.craft or attack.visibility is Visibility.OWN:
            raise ConfigError("attack", "must make its rows from what it sees of other clients", word, "alie")
        found.append((word, attack))
    return found


def check_attacks(attacks: Sequence[tuple[str, Attack]], defense: Subject, matrix: Matrix) -> None:
    """Refuse what cannot work on this matrix."""
    check_subjects([defense], matrix)
    spec = matrix.spec
    if not 0 < spec.malicious < spec.clients:
        raise ConfigError("malicious", f"must be from 1 to {spec.clients - 1}", spec.malicious)
    for _, attack in attacks:
        attack.check(setting_of(matrix))


def measure_attack(label: str, attack: Attack, defense: Subject, matrix: Matrix, repeats: int) -> CraftCost:
    """One warm-up, `repeats` timed rounds with the defense and the limit before each, one that watches memory.

    The planted malicious clients' rows are taken for what the attackers trained. The state goes on from round
    to round, as in a run.
    """
    updates = matrix.updates
    own, benign = updates.select(matrix.truth), updates.select(~matrix.truth)
    view = View(own, benign if attack.visibility is Visibility.OMNISCIENT else None, updates.num_clients)
    context = replace(matrix.context, role="attack 0", server_data=None)
    judging = defense.defense.init(matrix.context)
    _, judging = judged(defense.defense, judging, updates, matrix.context)
    _, state = crafted(attack, attack.init(context), view, context)
    crafts, passes, grams = [], [], []
    for repeat in range(1, repeats + 1):
        gc.collect()
        grams.append(seconds(gram_product, updates))
        judging_clock, crafting_clock = Clock(), Clock()
        _, judging = judged(
            defense.defense, judging, updates, replace(matrix.context, round=repeat), judging_clock
        )
        passes.append(judging_clock.seconds)
        _, state = crafted(attack, state, view, replace(context, round=repeat), crafting_clock)
        crafts.append(crafting_clock.seconds)
    last = replace(context, round=repeats + 1)
    _, taken = task_memory(updates.backend, lambda watch: crafted(attack, state, view, last, watch))
    said = attack.diagnostics(state)
    return CraftCost(label, np.array(crafts), np.array(passes), np.array(grams), said, taken)
