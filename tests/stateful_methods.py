"""An attack and a defense whose every answer depends on what they remember, named by import path in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raysim import Attack, Defense, Verdict, Visibility
from raysim.defense import accepted_mean


@dataclass(frozen=True)
class Reputation(Defense):
    """Remembers a velocity, a reputation per client and a factor; draws numbers of the round and lasting ones.

    fail_in: the round in which it fails, as long as the file `marker` is not there.
    """

    fail_in: int = -1
    marker: str = ""

    def init(self, ctx):
        return {"velocity": np.zeros(ctx.layout.dim), "seen": {}, "factor": np.float64(1.0), "log": []}

    def apply(self, state, updates, ctx):
        if ctx.round == self.fail_in and not Path(self.marker).exists():
            raise ArithmeticError("the defense gave up")
        norms = np.sqrt(np.diag(updates.gram()))
        names = [str(client) for client in updates.client_ids]
        before = np.array([state["seen"].get(name, {"total": 0.0})["total"] for name in names])
        scores = norms + before + ctx.generator("tie").random(len(norms))
        flagged = scores > np.quantile(scores, 0.75)
        mean, weights = accepted_mean(updates, flagged)
        velocity = np.float32(0.5) * state["velocity"] + mean * state["factor"]
        seen = {
            **state["seen"],
            **{name: {"total": float(score) / 2} for name, score in zip(names, scores, strict=True)},
        }
        verdict = Verdict(velocity.astype(np.float32), weights, scores, flagged, {"velocity": velocity[:50]})
        factor = state["factor"] * np.float32(0.9) + ctx.lasting_generator("bias").random() / 100
        return verdict, {
            "velocity": velocity,
            "seen": seen,
            "factor": factor,
            "log": [*state["log"], [ctx.round, int(flagged.sum())]],
        }


@dataclass(frozen=True)
class Drift(Attack):
    """Colluders push further along the way they pushed before, and along the last step of the global model."""

    @property
    def visibility(self):
        return Visibility.COLLUDING

    def init(self, ctx):
        return {"way": np.zeros(ctx.layout.num_columns, np.float32), "times": 0}

    def train(self, honest_train, data, ctx):
        update = honest_train(data)
        if ctx.previous_global_vector is not None:
            update += np.float32(0.3) * (ctx.global_vector - ctx.previous_global_vector)
        return update

    def craft(self, state, view, ctx):
        rows = view.own.to_array(buffers=True)
        way = np.float32(0.7) * state["way"] - rows.mean(axis=0)
        return rows + way, {"way": way, "times": state["times"] + 1}

    def diagnostics(self, state):
        return {"times": state["times"]}
