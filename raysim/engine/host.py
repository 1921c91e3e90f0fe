"""The host that trains many clients, and what it is told and answers.

A client is its data indices and nothing else. A host (one per worker process) keeps one model and trains
clients with it, one after another or, where the model is small, several at once. Everything a host returns
is a pure function of (round, clients trained together, global vector): any host may do it, twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from raysim.attack import Attack, ClientContext
from raysim.backends import devices
from raysim.data.client_data import ClientData, DataPool
from raysim.data.dataset import Dataset, normalise
from raysim.engine.campaigns import HONEST, Campaign, among, commanded
from raysim.engine.client_errors import naming
from raysim.engine.drawn_updates import Planted, Synthetic, acts_in_training
from raysim.engine.time_limit import OutOfTime, time_limit
from raysim.engine.uploads import reason_to_reject
from raysim.errors import RunError
from raysim.matrix.layout import Layout
from raysim.matrix.row_blocks import maxima_of, put_row, zero_tiles
from raysim.models.factory import ModelFactory
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from raysim.training.schedule import LearningRates
from raysim.training.stacked import CohortTrainer, stacks

Done = TypeVar("Done")


@dataclass(frozen=True)
class HostSetup:
    """What every host needs to know, small enough to send to each."""

    seed: int
    factory: ModelFactory
    layout: Layout
    recipe: TrainingRecipe
    device: devices.Wanted
    mean: tuple[float, ...]
    std: tuple[float, ...]
    campaigns: tuple[Campaign, ...]
    bounds: tuple[int, ...]
    evaluation_batch: int
    rates: LearningRates = LearningRates()
    """The learning rate of every round, as a share of the recipe's."""
    clients_per_stack: int = 1
    """Clients that train together; 1 = one after another."""
    least_samples: int = 1
    """Clients with fewer samples stay out of every round."""
    synthetic: Synthetic | None = None
    """How updates are drawn; None: they are trained."""
    attack_std: tuple[float, ...] | None = None
    """What attackers' and test images are divided by instead of `std`; None: the same."""
    client_timeout_s: float | None = None
    """Seconds that a client which trains alone may take; None: any."""
    drop_failing: bool = False
    """Whether a client whose code raises is a dropout; otherwise its error ends the run."""
    adapting: Mapping[int, int] = field(default_factory=dict)
    """Test set -> number of the campaign whose attack changes it from round to round."""

    def attackers(self, round: int) -> np.ndarray:
        """Sorted ids of the clients that attack in this round."""
        return commanded(c for c in self.campaigns if c.schedule.active(round))

    def joining(self, round: int) -> np.ndarray:
        """Sorted ids of the clients that take part in this round without being drawn."""
        return commanded(c for c in self.campaigns if c.schedule.joins and c.schedule.active(round))

    def planted(self, clients: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which of these clients' drawn rows lie away from the others [k] bool."""
        return among(clients, commanded(c for c in self.campaigns if isinstance(c.attack, Planted)))

    def steps(self, sizes: np.ndarray) -> np.ndarray:
        """Steps [n] that clients with these numbers of samples [n] take in a round, each for itself; 1 if updates are drawn."""
        if self.synthetic is not None:
            return np.ones(len(sizes))
        return self.recipe.epochs * np.ceil(sizes / self.recipe.batch_size)

    def groups(self, round: int, clients: Sequence[int] | np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        """Positions in `clients`, which ascend and have `sizes` samples: stacks of `clients_per_stack` with nearly equal
        numbers of steps, and groups of one for clients that must train alone.

        The same for a whole cohort and for any of these groups together.
        """
        solo = commanded(c for c in self.campaigns if c.schedule.active(round) and c.trains_alone)
        alone = among(clients, solo)
        rest = np.flatnonzero(~alone)
        together = [rest[stack] for stack in stacks(self.steps(sizes)[rest], self.clients_per_stack)]
        return [*together, *np.flatnonzero(alone)[:, None]]

    def campaign_of(self, round: int, client: int) -> tuple[Campaign, int]:
        """The campaign that a client attacks for in this round and its place there; (HONEST, -1) for none."""
        for campaign in self.campaigns:
            place = campaign.place(client)
            if place is not None:
                return (campaign, place) if campaign.schedule.active(round) else (HONEST, -1)
        return HONEST, -1

    def learning_rate(self, round: int) -> float:
        """The learning rate of honest clients that are sent this round's global model."""
        return self.recipe.learning_rate * self.rates.factor(round)


@dataclass(frozen=True)
class RoundOrder:
    """What the server says to the hosts about one round."""

    round: int
    cohort_examples: int
    version: int | None = None
    """The round whose global model its clients were sent, and with it that round's learning rate; None: this one's."""

    @property
    def sent_in(self) -> int:
        """The round in which its clients were sent the global model."""
        return self.round if self.version is None else self.version


@dataclass(frozen=True)
class UploadMeta:
    """What the server learns of one upload without reading it. reason: why it must not be used, or empty.

    note: what an attacking client remarked about the round, for the record alone. maxima: what `row_blocks.maxima_of`
    says of its row. attack_s: seconds that its attack took in the host beyond one training: poisoning its data, and all
    of its training but the first `fit`.
    """

    client: int
    num_examples: int
    train_loss: float
    reason: str = ""
    note: str = ""
    maxima: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False)
    attack_s: float = field(default=0.0, compare=False, repr=False)


class ClientHost:
    """Trains any client and evaluates any part of the test sets, with one resident model.

    images, labels: the training set, arrays or columns of shards; indices, offsets: the partition (CSR);
    tests: (images, labels) of the clean test set and of each triggered one.
    """

    def __init__(
        self,
        setup: HostSetup,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        offsets: np.ndarray,
        *tests: np.ndarray,
    ) -> None:
        self.setup = setup
        self.train_set = Dataset(images, labels).at_hand()
        self.indices, self.offsets = indices, offsets
        self.tests = [Dataset(*pair) for pair in zip(tests[::2], tests[1::2], strict=True)]
        # The one that the backend has decided for this process; a setup for CPUs is one wherever it is carried out.
        device = devices.CPU if setup.device == devices.CPU else devices.here()
        self.trainer = LocalTrainer(setup.factory, setup.layout, setup.recipe, device)
        self.cohort_trainer = CohortTrainer(self.trainer) if setup.clients_per_stack > 1 else None

    def train(
        self,
        order: RoundOrder,
        clients: Sequence[int],
        global_vector: np.ndarray,
        previous: np.ndarray | None,
    ) -> tuple[object, ...]:
        """Train these clients; one tile per column shard, the buffers' tile, and the list of UploadMeta."""
        tiles = zero_tiles(len(clients), self.setup.bounds, self.setup.layout.num_columns)
        metas: dict[int, UploadMeta] = {}
        own = [self._indices(client) for client in clients]
        self.train_set.expect(own)
        sizes = np.array([len(indices) for indices in own])
        for group in self.setup.groups(order.round, clients, sizes):
            members = [int(clients[position]) for position in group]
            if len(group) > 1:
                trained = self._upload_together(tiles, group, order, members, global_vector, previous)
            else:
                write = partial(put_row, tiles, group[0])
                work = partial(self._upload, write, order, members[0], global_vector, previous)
                trained = [self._attempt(order, members[0], work)]
                if trained[0].reason:  # also where the time was up in the middle of writing
                    write(np.zeros(self.setup.layout.num_columns, np.float32))
            metas.update(zip(group.tolist(), trained, strict=True))
        return (*tiles, _with_maxima(tiles, [metas[position] for position in range(len(clients))]))

    def draw(self, order: RoundOrder, clients: Sequence[int] | np.ndarray) -> tuple[object, ...]:
        """What `train` answers, with rows drawn from the seed; every client claims one example."""
        setup = self.setup
        assert setup.synthetic is not None, "called only where updates are drawn"
        members, planted = np.asarray(clients), setup.planted(clients)
        tiles = setup.synthetic.tiles(setup.seed, order.round, members, planted, setup.layout, setup.bounds)
        return (*tiles, _with_maxima(tiles, [UploadMeta(int(client), 1, float("nan")) for client in clients]))

    def evaluate(
        self,
        vector: np.ndarray,
        which: int,
        first: int,
        last: int,
        round: int = 0,
        began: np.ndarray | None = None,
    ) -> np.ndarray:
        """Evaluate samples [first, last) of test set `which`: see LocalTrainer.evaluate.

        round, began: for a test set that an attack adapts, the round and the global vector [d + b] it began with.
        """
        test, setup = self.tests[which], self.setup
        part = Dataset(test.images[first:last], test.labels[first:last])
        if which in setup.adapting and began is not None:
            campaign = setup.campaigns[setup.adapting[which]]
            ctx = self._context(RoundOrder(round, 0), int(campaign.client_ids[0]), campaign, 0, began, None)
            part = campaign.attack.adapt_test(part, ctx)
        self.trainer.load(vector)
        return self.trainer.evaluate(part, setup.mean, setup.attack_std or setup.std, setup.evaluation_batch)

    def data_of(self, client: int, std: tuple[float, ...] | None = None) -> ClientData:
        """A client's own samples, ready for the model; std: what to divide by, None: what honest clients do."""
        return self._samples(self._indices(client), std or self.setup.std)

    def pool(self, clients: Sequence[int] | np.ndarray) -> DataPool:
        """What these attackers hold together, in the order given; images are read and normalised on demand."""
        std = self.setup.attack_std or self.setup.std
        indices = np.concatenate([self._indices(int(client)) for client in clients])
        return DataPool(
            self.train_set.labels[indices].astype(np.int64),
            lambda positions: self._samples(indices[positions], std),
        )

    def _indices(self, client: int) -> np.ndarray:
        return self.indices[self.offsets[client] : self.offsets[client + 1]]

    def _samples(self, indices: np.ndarray, std: tuple[float, ...]) -> ClientData:
        images = normalise(self.train_set.images[indices], self.setup.mean, std).numpy()
        return ClientData(images, self.train_set.labels[indices].astype(np.int64))

    def _attempt(self, order: RoundOrder, client: int, work: Callable[[], Done]) -> Done | UploadMeta:
        """What `work` returns; where the client drops out instead, the note that says why."""
        limit = self.setup.client_timeout_s
        try:
            with naming(order.round, [client]), time_limit(limit):
                return work()
        except OutOfTime:
            reason = f"timed out after {limit:g} s"
        except RunError as error:
            if not self.setup.drop_failing:
                raise
            reason = f"raised {error.problem[:REASON_LENGTH]}"
        return UploadMeta(client, len(self._indices(client)), float("nan"), reason)

    def _upload(
        self,
        write: Callable[[np.ndarray], None],
        order: RoundOrder,
        client: int,
        global_vector: np.ndarray,
        previous: np.ndarray | None,
    ) -> UploadMeta:
        """Train one client and `write` its update; returns what the server needs to know of it."""
        self.trainer.train_loss = float("nan")
        data, attack, context, attack_s = self._prepare(order, client, global_vector, previous)
        if not attack.trains:
            return UploadMeta(client, len(data), float("nan"), note="; ".join(context.notes))
        fit = partial(
            self._fit,
            global_vector,
            key=("train", order.round, client),
            learning_rate=self.setup.learning_rate(order.sent_in),
        )
        self.trainer.first_fit_s = None
        began = time.perf_counter()
        submitted = attack.train(fit, data, context)
        if acts_in_training(attack):
            attack_s += time.perf_counter() - began - (self.trainer.first_fit_s or 0.0)
        meta = self._accept(write, submitted, context, len(data), self.trainer.train_loss)
        return replace(meta, attack_s=attack_s)

    def _upload_together(
        self,
        tiles: Sequence[np.ndarray],
        places: np.ndarray,
        order: RoundOrder,
        clients: Sequence[int],
        global_vector: np.ndarray,
        previous: np.ndarray | None,
    ) -> list[UploadMeta]:
        """Train clients that train honestly, each on its own data, into their rows of the tiles."""
        assert self.cohort_trainer is not None, "groups of several are formed only if there is one"
        metas: dict[int, UploadMeta] = {}
        ready: list[tuple[int, int, ClientData, ClientContext, float]] = []
        for place, client in zip(places, clients, strict=True):
            found = self._attempt(
                order, client, partial(self._prepare, order, client, global_vector, previous)
            )
            if isinstance(found, UploadMeta):
                metas[client] = found
            else:
                ready.append((place, client, found[0], found[2], found[3]))
        if ready:
            members = [client for _, client, *_ in ready]
            with naming(order.round, members):
                updates, losses = self.cohort_trainer.fit(
                    global_vector,
                    [data for _, _, data, *_ in ready],
                    [("train", order.round, client) for client in members],
                    seed=self.setup.seed,
                    learning_rate=self.setup.learning_rate(order.sent_in),
                )
            for (place, client, data, context, attack_s), update, loss in zip(
                ready, updates, losses, strict=True
            ):
                meta = self._accept(partial(put_row, tiles, place), update, context, len(data), float(loss))
                metas[client] = replace(meta, attack_s=attack_s)
        return [metas[client] for client in clients]

    def _prepare(
        self, order: RoundOrder, client: int, global_vector: np.ndarray, previous: np.ndarray | None
    ) -> tuple[ClientData, Attack, ClientContext, float]:
        """The client's training data, its attack (HONEST's when it does not attack this round), the attack's context, and
        the seconds that poisoning the data took.
        """
        campaign, colluder = self.setup.campaign_of(order.round, client)
        context = self._context(order, client, campaign, colluder, global_vector, previous)
        own, began = self.data_of(client, context.std), time.perf_counter()
        data = campaign.attack.poison_data(own, context)
        poisoned_s = time.perf_counter() - began if acts_in_training(campaign.attack) else 0.0
        return data, campaign.attack, context, poisoned_s

    def _context(
        self,
        order: RoundOrder,
        client: int,
        campaign: Campaign,
        colluder: int,
        global_vector: np.ndarray,
        previous: np.ndarray | None,
    ) -> ClientContext:
        """A client as its attack sees it."""
        setup = self.setup
        std = setup.std if campaign is HONEST or setup.attack_std is None else setup.attack_std
        return ClientContext(
            seed=setup.seed,
            round=order.round,
            client=client,
            colluder=colluder,
            num_colluders=len(campaign.client_ids),
            num_classes=setup.factory.num_classes,
            layout=setup.layout,
            global_vector=global_vector,
            previous_global_vector=previous,
            trainer=self.trainer,
            learning_rate=setup.learning_rate(order.sent_in),
            cohort_examples=order.cohort_examples,
            mean=setup.mean,
            std=std,
            pool=partial(self.pool, campaign.client_ids),
        )

    def _fit(self, global_vector: np.ndarray, data: ClientData, **options: Any) -> np.ndarray:
        """options: those of `LocalTrainer.fit`."""
        return self.trainer.fit(global_vector, data, options.pop("key"), seed=self.setup.seed, **options)

    def _accept(
        self,
        write: Callable[[np.ndarray], None],
        submitted: object,
        context: ClientContext,
        examples: int,
        loss: float,
    ) -> UploadMeta:
        reason = reason_to_reject(submitted, self.setup.layout, context.global_vector)
        if not reason:
            write(cast(np.ndarray, submitted))
        return UploadMeta(context.client, examples, loss, reason, "; ".join(context.notes))


def _with_maxima(tiles: Sequence[np.ndarray], metas: Sequence[UploadMeta]) -> list[UploadMeta]:
    """The notes with what is known of their rows' values, for sums that are formed without reading them first."""
    return [replace(meta, maxima=row) for meta, row in zip(metas, maxima_of(tiles), strict=True)]


REASON_LENGTH = 200
"""Characters of an error that a dropout's reason repeats."""
