"""Mimic: submit another client's honest update, so that this client counts too much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from attacks.rows import mean_row
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.matrix.row_products import products_with
from raysim.matrix.updates import Updates
from raysim.options import PositiveInt


@dataclass(frozen=True)
class Mimic(Attack):
    """Submit one benign client's update, of the one that stands out along the direction in which clients differ most.

    Karimireddy, He and Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing" (ICLR 2022):
    nothing that is submitted is unusual, but the data of the client that is copied counts too much.

    target: `variance`: in the first `warmup` rounds (of this attack) the mean mu and the direction z of
    the benign updates u_i are estimated as they come, mu <- t/(1+t) mu + 1/(1+t) mean_i u_i, then z <- t/(1+t) z + 1/(1+t)
    sum_i (u_i - mu) <u_i - mu, z>, scaled to length 1, from a random z; each client's <u_i, z> is summed, and the client of
    the largest |sum| among the round's is copied. After these rounds the sums, and so the client, stay. `first`: the
    first benign client of the round (ByzFL's default). The authors' code scales each round's sum to length 1 before it
    joins z, and copies the client of the round's largest <u_i, z>, sign included; after `warmup` the last one.
    A round without a benign client leaves w_G. Ties: the first client. Buffers are copied too.
    """

    paper = "Karimireddy et al., ICLR 2022"
    visibility: ClassVar[Visibility] = Visibility.OMNISCIENT
    """Needs every benign update."""
    trains: ClassVar[bool] = False
    """No: what is submitted is another client's."""
    target: Literal["variance", "first"] = "variance"
    """Who is copied: the client that stands out along the direction of largest `variance`, or the `first`."""
    warmup: PositiveInt = 10
    """Rounds in which the direction is estimated, and the client may change."""

    def init(self, ctx: Context) -> State:
        """A random direction, and nothing seen."""
        if self.target == "first":
            return {}
        direction = ctx.lasting_generator("direction").standard_normal(ctx.layout.dim)
        direction /= np.linalg.norm(direction)
        return {"rounds": 0, "mean": np.zeros_like(direction), "direction": direction, "sums": {}}

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The chosen client's row for every attacker; it is not copied."""
        benign = view.benign
        if benign is None or not benign.num_clients:
            return None, state
        if self.target == "first":
            return submitted(benign, 0, view.own), {**state, "copied": int(benign.client_ids[0])}
        names = [str(client) for client in benign.client_ids]
        if state["rounds"] < self.warmup:
            state = learn(state, benign, names)
        sums = np.abs([state["sums"].get(name, 0.0) for name in names])
        place = int(np.argmax(sums))
        return submitted(benign, place, view.own), {**state, "copied": int(benign.client_ids[place])}

    def diagnostics(self, state: State) -> Diagnostics:
        """copied: the client whose update was submitted."""
        return {"copied": state["copied"]} if "copied" in state else {}


def learn(state: State, benign: Updates, names: list[str]) -> State:
    """One more round in the estimates."""
    seen = state["rounds"]
    mean = (seen * state["mean"] + mean_row(benign, "mimic")) / (seen + 1)
    direction = state["direction"]
    along = products_with(benign, benign.backend.put(direction), "mimic")[:, 0]
    centred = along - mean @ direction
    pull = benign.sum_rows(centred, "mimic") - mean * centred.sum()
    moved = seen * direction + pull
    length = np.linalg.norm(moved)
    if length > 0:
        direction = moved / length
    # Products with the new direction are what the sums are of.
    along = products_with(benign, benign.backend.put(direction), "mimic")[:, 0]
    sums = dict(state["sums"])
    for name, value in zip(names, along, strict=True):
        sums[name] = sums.get(name, 0.0) + float(value)
    return {**state, "rounds": seen + 1, "mean": mean, "direction": direction, "sums": sums}


def submitted(benign: Updates, place: int, own: Updates) -> Updates:
    """The benign row at `place` as the row of every client of `own`; held once, where it lies."""
    (block,) = benign.select(np.array([place])).blocks
    count = own.num_clients
    shared = replace(block, positions=np.arange(count), rows=np.full(count, block.rows[0]))
    return replace(own, blocks=(shared,), ahead=())
