"""The contract of an attack: hooks that are honest until an attack overrides them.

An attack is a frozen dataclass whose fields are its hyper-parameters and nothing else. When it is active
and on which clients is the engine's business. Attacks that act alone do so in `poison_data` and `train`,
which run where the client is hosted; attacks that collude, or that overhear benign updates, also act in
`craft`, on the server's side of the simulation, with exactly the view their `visibility` grants.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from raysim import rng
from raysim.context import Context, Setting, State
from raysim.data.client_data import ClientData, DataPool
from raysim.errors import RunError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.options import Declared

if TYPE_CHECKING:
    from raysim.data.dataset import Dataset
    from raysim.training.local import LocalTrainer


class Visibility(enum.Enum):
    """What an attacker knows besides the global model it was sent."""

    OWN = "own data and own model only"
    COLLUDING = "the compromised clients' models"
    OMNISCIENT = "every client's model of the round"


Diagnostics = dict[str, float | str | None]
"""Numbers and short strings by name, which an attack says of its last `craft` for a round's record."""


@dataclass(frozen=True)
class ClientContext:
    """One compromised client in one round, as its attack sees it on the client's host."""

    seed: int
    round: int
    client: int
    colluder: int
    """This client's place among the attack's clients, 0 .. num_colluders - 1 (the same in every round)."""
    num_colluders: int
    num_classes: int
    layout: Layout
    global_vector: np.ndarray
    """The global parameters and buffers [d + b] float32 that the client was sent: those that this round began with or, in
    asynchronous rounds, an earlier one."""
    previous_global_vector: np.ndarray | None
    """The global vector [d + b] of the version before, None where that is the first of the run."""
    trainer: LocalTrainer
    learning_rate: float = 0.0
    """The honest clients' learning rate in this round."""
    cohort_examples: int = 0
    """Training examples held by the round's cohort: what FedAvg's weights are shares of."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    """How the clients' images were normalised, per channel or one value for all (`dataset.normalise`)."""
    pool: Callable[[], DataPool] | None = None
    """Gathers what all the attack's clients hold; see `colluders_data`."""
    notes: list[str] = field(default_factory=list)
    """What this client has to say about the round, for its record; see `note`."""

    def generator(self, *key: rng.Key) -> np.random.Generator:
        """A generator of this client's own in this round."""
        return rng.generator(self.seed, "attack", self.round, self.client, *key)

    def shared_generator(self, *key: rng.Key) -> np.random.Generator:
        """A generator that all colluders share, the same in every round."""
        return rng.generator(self.seed, "attack", "shared", *key)

    def colluders_data(self) -> DataPool:
        """The local data of all the attack's clients, in client-id order; RunError if the host has none."""
        if self.pool is None:
            raise RunError("this attack needs the colluders' data", stage="train", client=self.client)
        return self.pool()

    def note(self, text: str) -> None:
        """Put a short remark into the round's record, once: that the client had nothing to poison, say."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class View:
    """What `craft` may look at. `benign` is None unless the attack's visibility grants it.

    In asynchronous rounds these are the rows of the buffer alone, each relative to the global model that its client was sent,
    and not discounted for staleness: of who is still under way an attacker sees nothing.

    own: the rows the compromised clients of this round trained (through `train`); benign: the honest rows.
    """

    own: Updates
    benign: Updates | None
    cohort_size: int
    """Number K of clients in the round; public, since the server announces it."""


@dataclass(frozen=True)
class Attack(Declared):
    """Base of every attack: honest behaviour in every hook; an attack overrides those where it lies.

    This one sends back the mean of what its clients trained, turned round and made longer.

    >>> from raysim import Context, InProcessBackend, Positive, State, Updates, View, Visibility
    >>> @dataclass(frozen=True)
    ... class Backwards(Attack):
    ...     "Every compromised client submits -`factor` times the mean of the compromised clients' honest updates."
    ...     factor: Positive = 1.0
    ...     "How many times longer than the mean."
    ...
    ...     @property
    ...     def visibility(self) -> Visibility:
    ...         return Visibility.COLLUDING
    ...
    ...     def craft(self, state: State, view: View, ctx: Context) -> tuple[np.ndarray, State]:
    ...         count = view.own.num_clients
    ...         mean = view.own.combine(np.full(count, 1 / count), "craft")  # [d]; the rows stay where they lie
    ...         return np.tile(-self.factor * mean, (count, 1)), state

    On two updates, without an experiment (this attack asks the context for nothing; the engine hands it one):

    >>> backend = InProcessBackend()
    >>> own = Updates.from_array(np.array([[1.0, 2.0], [3.0, 4.0]]), backend)
    >>> rows, state = Backwards(factor=10).craft({}, View(own, benign=None, cohort_size=5), ctx=None)
    >>> rows.tolist()
    [[-20.0, -30.0], [-20.0, -30.0]]

    In a configuration it is named by import path: `attack.name=mypackage.mymodule:Backwards attack.factor=10`.
    """

    paper: ClassVar[str] = ""
    """Authors, short title or venue, year: `Baruch et al., NeurIPS 2019`."""

    @property
    def visibility(self) -> Visibility:
        """What this attack may see; decides the view that `craft` gets."""
        return Visibility.OWN

    @property
    def trains(self) -> bool:
        """Whether compromised clients need to train at all; False saves the work when `craft` replaces it."""
        return True

    def check(self, setting: Setting) -> None:
        """Raise ConfigError when this attack cannot work in that setting; called before anything starts."""

    def init(self, ctx: Context) -> State:
        """The state before the first round."""
        return {}

    def poison_data(self, data: ClientData, ctx: ClientContext) -> ClientData:
        """The data a compromised client trains on. A pure function of its arguments: called when needed."""
        return data

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The update [d + b] a compromised client submits; honest_train(data, **options) is local training.

        `ctx.trainer` documents the options (epochs, learning rate, and hooks on batches, loss and steps).
        """
        return honest_train(data)

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """Rows to submit instead of `view.own`: Updates, an array [c, d] in `view.own.client_ids` order, or
        None to submit what was trained. Called once a round for attacks that see more than OWN.

        Rows that are not finite are the attacker's choice: the engine rejects them, as it does other uploads.
        Rows of another shape, of other clients, or that are not numbers end the run (ContractError).
        """
        return None, state

    def diagnostics(self, state: State) -> Diagnostics:
        """Numbers and short strings about the last `craft`, for the round's record (bounds, a failed search)."""
        return {}

    def triggered_test(self, test: Dataset) -> Dataset | None:
        """What attack success is measured on: inputs with the label the attacker wants; None without a target."""
        return None

    def adapt_test(self, test: Dataset, ctx: ClientContext) -> Dataset:
        """Samples of `triggered_test` as they are in this round, as many: for attacks whose trigger changes.

        A pure function, called where clients are hosted when a model is evaluated. ctx: of the attack's first client, with
        the global vector that the round began with; what is noted there is not recorded.
        """
        return test
