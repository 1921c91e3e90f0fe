"""What every registered defense must keep to, as it comes by default; new entries of the table are found by themselves."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses import DEFENSES
from raysim.backends.base import Backend, InProcessBackend, ThreadLimit
from raysim.backends.left_behind import LeftBehind
from raysim.composition.evaluate import evaluate
from raysim.context import Context, ServerData, State
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.models.recipe import ModelRecipe
from raysim.runs import checkpoint

FACTORY = ModelRecipe("digits_cnn", 10, (1, 8, 8), 0, {"width": 0.6})
"""5,416 parameters: two chunks of columns."""
CLIENTS = 8
SMALLER: dict[str, dict[str, Any]] = {
    "backdoor_indicator": {"epochs": 3},
    "dagmm": {"epochs": 5, "num_snapshots": 8},
    "deepsight": {"samples": 100},
    "isolation_forest": {"num_trees": 10},
    "vae": {"epochs": 3, "hidden": 32, "num_snapshots": 8},
}
"""Options of the defenses whose default size would make these tests slow."""
EARLY: dict[str, dict[str, Any]] = {
    "fedgrad": {"switch_round": 0},
    "fldetector": {"window": 1, "burn_in": 1},
    "gradcam_ae": {"interval": 2, "votes": 1},
    "layercam_ae": {"interval": 2, "votes": 1},
}
"""Defenses of which a part begins late in a run by default: when it begins here."""
TIED: dict[str, str] = {
    "bulyan": "its last choice is between rows that are each other's nearest: a tie, which the first row wins",
    "gradcam_krum": "three of these models have the same, empty heat map: a tie, which the first row wins",
}
"""Defenses for which the order of these rows matters, and why."""

every_defense = pytest.mark.parametrize("name", sorted(DEFENSES))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 4,096 columns, so that a small model has several; and one thread."""
    monkeypatch.setattr("raysim.matrix.updates.CHUNK_VALUES", 1)
    with ThreadLimit(1)():
        yield


@cache
def layout_and_vector() -> tuple[Layout, np.ndarray]:
    network = FACTORY.build()
    layout = Layout.of(network)
    return layout, layout.vector(network)


@cache
def server_data() -> ServerData:
    """40 images whose bright quadrant tells their class."""
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 4
    images = draw.uniform(0, 0.2, (40, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row : row + 4, column : column + 4] += 0.8
    return ServerData(images, labels.astype(np.int64))


def random_rows(count: int = CLIENTS, seed: int = 0) -> np.ndarray:
    """Updates that share a direction, the last of them larger and the other way round."""
    draw = np.random.default_rng(seed)
    shared = draw.standard_normal(layout_and_vector()[0].dim)
    rows = 0.01 * (shared + draw.standard_normal((count, len(shared))))
    rows[-1] *= -3
    return rows.astype(np.float32)


def defense_of(name: str) -> Defense:
    return DEFENSES[name](**SMALLER.get(name, {}))


def judge(
    name: str,
    rows: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    round: int = 0,
    state: State | None = None,
    defense: Defense | None = None,
    backend: Backend | None = None,
    **tiling: Any,
) -> tuple[Verdict, State]:
    """One round of a defense, with a model and server data; the largest id is the attacker's, for oracles."""
    layout, vector = layout_and_vector()
    backend = backend or InProcessBackend()
    examples = None if ids is None else 10 + ids
    updates = Updates.from_array(
        rows, backend, layout=layout, client_ids=ids, num_examples=examples, **tiling
    )
    defense = defense or defense_of(name)
    context = Context(
        backend=backend,
        seed=3,
        role="defense",
        round=round,
        rounds=6,
        layout=layout,
        published=backend.put(vector),
        global_vector=vector,
        factory=FACTORY,
        server_data=server_data(),
        truth=updates.client_ids[-1:] if defense.calibration else None,
    )
    state = defense.init(context) if state is None else state
    return defense.apply(state, updates, context)


@cache
def first_verdict(name: str) -> Verdict:
    return judge(name, random_rows())[0]


def assert_valid(verdict: Verdict, count: int) -> None:
    assert verdict.aggregate.shape == (layout_and_vector()[0].dim,)
    assert verdict.aggregate.dtype == np.float32
    assert np.isfinite(verdict.aggregate).all()
    if verdict.weights is not None:
        assert verdict.weights.shape == (count,)
        assert np.isfinite(verdict.weights).all()
        assert (verdict.weights >= 0).all()
        if not verdict.weights.any():
            assert not verdict.aggregate.any(), "nobody was accepted, so the global model must stay"
    if verdict.scores is not None:
        assert verdict.scores.shape == (count,)
        assert not np.isnan(verdict.scores).any()
    if verdict.flagged is not None:
        assert verdict.flagged.shape == (count,)
        assert verdict.flagged.dtype == bool
    assert all(isinstance(array, np.ndarray) for array in verdict.artifacts.values())


def as_bytes(verdict: Verdict) -> list[bytes | None]:
    per_client = (verdict.weights, verdict.scores, verdict.flagged)
    return [verdict.aggregate.tobytes(), *(None if a is None else a.tobytes() for a in per_client)]


def held(state: Any) -> Any:
    """The state with what its tiles hold in their place."""
    if isinstance(state, dict):
        return {key: held(item) for key, item in state.items()}
    if isinstance(state, list):
        return [held(item) for item in state]
    return state.value if isinstance(state, LeftBehind) else state


def assert_valid_state(value: Any) -> None:
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        for item in value.values():
            assert_valid_state(item)
    elif isinstance(value, list):
        for item in value:
            assert_valid_state(item)
    elif isinstance(value, LeftBehind):
        assert_valid_state(value.value)
    else:
        assert value is None or isinstance(value, np.ndarray | int | float | str | bool), type(value)


@every_defense
def test_is_a_described_frozen_dataclass_with_defaults(name):
    cls = DEFENSES[name]
    assert dataclasses.is_dataclass(cls)
    defense = cls()
    assert (inspect.getdoc(cls) or "").partition("\n")[0].endswith(".")
    with pytest.raises(dataclasses.FrozenInstanceError):
        defense.anything = 1  # type: ignore[attr-defined]
    keywords = set(inspect.signature(evaluate).parameters)
    assert not keywords & {field.name for field in dataclasses.fields(cls)}, "evaluate could not set these"


@every_defense
def test_a_verdict_is_finite_and_the_same_again(name):
    rows = random_rows()
    defense = pickle.loads(pickle.dumps(defense_of(name)))
    assert defense == defense_of(name)
    verdict, state = judge(name, rows, defense=defense)
    assert_valid(verdict, CLIENTS)
    assert_valid_state(state)
    assert (rows == random_rows()).all(), "the input was changed"
    assert as_bytes(verdict) == as_bytes(first_verdict(name))


@every_defense
def test_tiles_do_not_matter(name):
    dim = layout_and_vector()[0].dim
    whole, _ = judge(name, random_rows(), bounds=(0, dim))
    tiled, _ = judge(name, random_rows(), rows_per_block=3, bounds=(0, 4096, dim))
    assert as_bytes(whole) == as_bytes(tiled)


@every_defense
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_clients(name, count):
    verdict, _ = judge(name, random_rows(count))
    assert_valid(verdict, count)
    if count == 1 and not DEFENSES[name].calibration:
        assert verdict.flagged is None or not verdict.flagged[0]


@every_defense
def test_updates_of_zero(name):
    rows = random_rows()
    rows[2] = 0
    assert_valid(judge(name, rows)[0], CLIENTS)
    still, _ = judge(name, np.zeros_like(rows))
    assert_valid(still, CLIENTS)
    assert not still.aggregate.any()


@every_defense
def test_identical_updates(name):
    verdict, _ = judge(name, np.repeat(random_rows(2)[:1], 6, axis=0))
    assert_valid(verdict, 6)


@every_defense
def test_clients_are_known_by_their_ids(name):
    ids = np.array([4, 9, 17, 2, 30, 11, 5, 21])
    order = np.random.default_rng(1).permutation(CLIENTS)
    rows = random_rows()
    verdict, _ = judge(name, rows, ids=ids)
    other, _ = judge(name, rows[order], ids=ids[order])
    assert as_bytes(verdict) == as_bytes(other)


@every_defense
def test_permuting_clients_permutes_the_verdict(name):
    if name in TIED:
        pytest.skip(TIED[name])
    order = np.random.default_rng(2).permutation(CLIENTS - 1)
    order = np.append(order, CLIENTS - 1)
    verdict, (other, _) = first_verdict(name), judge(name, random_rows()[order])
    np.testing.assert_allclose(other.aggregate, verdict.aggregate, rtol=1e-3, atol=1e-6)
    if verdict.flagged is not None:
        assert other.flagged is not None
        assert (other.flagged == verdict.flagged[order]).all()
    for first, second in ((verdict.weights, other.weights), (verdict.scores, other.scores)):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            np.testing.assert_allclose(second, first[order], rtol=1e-3, atol=1e-6)


@every_defense
def test_rounds_with_other_clients_go_on_from_a_saved_state(name, tmp_path: Path):
    cohorts = [np.arange(0, 6), np.array([1, 3, 4, 8, 9, 10]), np.array([0, 1, 2, 3, 8, 9])]
    state: State | None = None
    reloaded: State | None = None
    for round, ids in enumerate(cohorts):
        rows = random_rows(len(ids), seed=round)
        before, given = pickle.dumps(held(state)), state
        verdict, state = judge(name, rows, ids=ids, round=round, state=given)
        assert pickle.dumps(held(given)) == before, "the state that was handed in was changed"
        again, reloaded = judge(name, rows, ids=ids, round=round, state=reloaded)
        assert_valid(verdict, len(ids))
        assert_valid_state(state)
        assert as_bytes(verdict) == as_bytes(again)
        reloaded = checkpoint.load(checkpoint.save(tmp_path, round, {"defense": reloaded}, 1))["defense"]


def evaluated(name: str, rows: np.ndarray, ids: np.ndarray | None = None) -> Verdict:
    return evaluate(
        name, rows, client_ids=ids, model=FACTORY, server_data=server_data(), **SMALLER.get(name, {})
    )


@every_defense
def test_non_finite_clients_are_left_out(name):
    rows = random_rows()
    rows[3, 17] = np.nan
    if DEFENSES[name].calibration:
        with pytest.raises(ConfigError):
            evaluated(name, rows)
        return
    others = np.arange(CLIENTS) != 3
    verdict, without = evaluated(name, rows), evaluated(name, rows[others], np.flatnonzero(others))
    assert_valid(verdict, CLIENTS)
    assert verdict.flagged is not None
    assert verdict.flagged[3]
    assert verdict.weights is None or verdict.weights[3] == 0
    assert verdict.aggregate.tobytes() == without.aggregate.tobytes()
    if without.flagged is not None:
        assert (verdict.flagged[others] == without.flagged).all()
    rows[:] = np.inf
    nobody = evaluated(name, rows)
    assert_valid(nobody, CLIENTS)
    assert nobody.flagged is not None
    assert nobody.flagged.all()


@pytest.mark.ray
@every_defense
def test_ray_and_in_process_give_the_same_bytes(name, ray_cluster):
    """Three rounds with different cohorts, as Ray tasks on row blocks and column shards, and in this process."""
    from raysim.backends.ray_backend import ClientActors, RayBackend

    dim = layout_and_vector()[0].dim
    tiling = {"rows_per_block": 3, "bounds": (0, 4096, dim)}
    verdicts = []
    defense = dataclasses.replace(defense_of(name), **EARLY.get(name, {}))
    cohorts = [np.arange(CLIENTS), np.array([1, 2, 3, 4, 5, 6, 9]), np.array([0, 1, 2, 3, 5, 6, 9])]
    for backend in (InProcessBackend(), RayBackend(ClientActors(0), workers=2)):
        state, found = None, []
        for round, ids in enumerate(cohorts):
            rows = random_rows(len(ids), seed=round)
            where = {"ids": ids, "round": round, "backend": backend, **tiling}
            verdict, state = judge(name, rows, state=state, defense=defense, **where)
            found.append(bytes_of(verdict))
        verdicts.append(found)
    assert verdicts[0] == verdicts[1]


def bytes_of(verdict: Verdict) -> dict[str, bytes | None]:
    arrays = {
        **verdict.artifacts,
        **{f.name: getattr(verdict, f.name) for f in dataclasses.fields(verdict)[:4]},
    }
    return {name: None if array is None else array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in sorted(DEFENSES)),
        ("foolsgold", {"features": "all"}),
        ("isolation_forest", {"features": "components"}),
    ],
)
def test_what_is_said_of_reading_columns_is_so(name, options, monkeypatch):
    """Tiles are brought together while clients train, for those that say so: others would pay for what they never read."""
    kind, read = DEFENSES[name], []
    judge_rows, cut = kind.apply, Updates.shards
    landed: list[Any] = []

    def apply(self, state, updates, ctx):
        landed[:] = [tile for block in updates.blocks for tile in block.tiles]
        return judge_rows(self, state, updates, ctx)

    def shards(self, along, with_buffers=False):
        read.append(any(tile is other for block in self.blocks for tile in block.tiles for other in landed))
        return cut(self, along, with_buffers)

    monkeypatch.setattr(kind, "apply", apply)
    monkeypatch.setattr(Updates, "shards", shards)
    defense = dataclasses.replace(defense_of(name), **EARLY.get(name, {}), **options)
    state = None
    for round in range(2):
        _, state = judge(name, random_rows(), round=round, state=state, defense=defense, rows_per_block=3)
    assert any(read) == defense.reads_columns
