import numpy as np
import pytest
import torch

from attacks.gae import GAE
from attacks.graph_autoencoder import (
    AutoencoderRecipe,
    cosine_graph,
    fit_autoencoder,
    initial_weights,
    laplacian_basis,
)
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, layout_of, round_of, tilings
from tests.attacks.local_attackers import client_context, client_data, honest_training, tiny_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


ROWS = np.random.default_rng(0).normal(0.05, 0.2, size=(9, 30)).astype(np.float32)
ATTACKERS = [2, 5, 6]
BENIGN = np.delete(ROWS, ATTACKERS, axis=0).astype(np.float64)
MEAN = BENIGN.mean(0)
BOUND = np.linalg.norm(BENIGN - MEAN, axis=1).max()
GLOBAL = np.random.default_rng(1).normal(0.0, 0.1, size=30).astype(np.float32)


def coordinates_of(attack, dim=30):
    _, context = round_of(ROWS, ATTACKERS)
    generator = context.lasting_generator("gae", "coordinates")
    return np.sort(generator.choice(dim, min(attack.num_coordinates, dim), replace=False))


def rewritten(features, threshold):
    """F^ by the steps as printed, one matrix at a time."""
    _, context = round_of(ROWS, ATTACKERS)
    generator = context.generator("gae", "autoencoder")
    adjacency = cosine_graph(features.T, threshold)
    weights = initial_weights(len(features), AutoencoderRecipe(), generator)
    redrawn, _, _ = fit_autoencoder(adjacency, features.T, weights, AutoencoderRecipe(), generator)
    signal = features @ laplacian_basis(adjacency)[0]
    return signal @ laplacian_basis(redrawn)[0].T


@pytest.mark.parametrize("features", ["models", "updates"])
def test_rows_of_the_rewritten_features_on_the_coordinates_and_the_mean_elsewhere(features):
    attack = GAE(num_coordinates=12, features=features, threshold=0.1, ascent_steps=0, project=False)
    crafted, said = craft(attack, ROWS, ATTACKERS, global_vector=GLOBAL)
    assert said["repeated_eigenvalues"] == 0  # else the eigenvectors are not determined
    chosen = coordinates_of(attack)
    base = GLOBAL[chosen] if features == "models" else 0
    updates = rewritten(BENIGN[:, chosen] + base, 0.1) - base
    expected = np.tile(MEAN, (3, 1))
    expected[:, chosen] = updates[[2, 5, 0]]  # ids 2, 5, 6 mod J = 6
    np.testing.assert_allclose(crafted, expected, atol=1e-5)
    assert said["bound"] == pytest.approx(BOUND, rel=1e-6)
    distance = np.linalg.norm(crafted - MEAN, axis=1).max()
    assert said["distance"] == pytest.approx(distance, rel=1e-5)
    assert said["within_bound"] == (distance <= BOUND)


@pytest.mark.parametrize(("multiplier", "dual_step"), [(0.2, 0.02), (0.001, 0.01)])
def test_the_ascent_on_two_numbers_is_the_ascent_on_vectors(multiplier, dual_step):
    options = {
        "num_coordinates": 12,
        "step": 0.05 / BOUND,
        "dual_step": dual_step * BOUND,
        "initial_multiplier": multiplier,
    }
    start, _ = craft(GAE(**options, ascent_steps=0, project=False), ROWS, ATTACKERS, global_vector=GLOBAL)
    moved, said = craft(GAE(**options, ascent_steps=40, project=False), ROWS, ATTACKERS, global_vector=GLOBAL)
    projected, held = craft(GAE(**options, ascent_steps=40), ROWS, ATTACKERS, global_vector=GLOBAL)
    direction = MEAN / np.linalg.norm(MEAN)
    for begin, end, inside in zip(start.astype(np.float64), moved, projected, strict=True):
        row, weight = begin.copy(), multiplier
        for _ in range(40):
            away = row - MEAN
            row = row + 0.05 * (-direction - weight * away / np.linalg.norm(away))
            weight = max(0.0, weight + dual_step * (np.linalg.norm(row - MEAN) - BOUND))
        np.testing.assert_allclose(end, row, atol=1e-5)
        scale = BOUND / np.linalg.norm(row - MEAN)
        np.testing.assert_allclose(inside, MEAN + scale * (row - MEAN), atol=1e-5)
    assert said["within_bound"] == (said["distance"] <= BOUND)
    assert held["within_bound"]
    np.testing.assert_allclose(np.linalg.norm(projected - MEAN, axis=1), BOUND, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 1.0, 20.0])
def test_the_ascent_ends_on_the_bound_against_the_mean_update(factor):
    still, _ = craft(GAE(ascent_steps=0), ROWS, ATTACKERS)
    moved, said = craft(GAE(bound_factor=factor), ROWS, ATTACKERS)
    assert ((moved - still) @ MEAN < 0).all()
    np.testing.assert_allclose(np.linalg.norm(moved - MEAN, axis=1), factor * BOUND, rtol=1e-5)
    cosines = (moved - MEAN) @ MEAN / np.linalg.norm(moved - MEAN, axis=1) / np.linalg.norm(MEAN)
    assert (cosines < -0.9).all()
    assert said["distance"] == pytest.approx(factor * BOUND, rel=1e-6)
    assert said["within_bound"]
    assert 0 < said["graph_share"] < 0.5


def test_the_loss_direction_is_the_mean_of_what_the_attackers_climbed():
    moved, _ = craft(GAE(direction="loss", ascent_steps=2000), ROWS, ATTACKERS)
    climbs = ROWS[ATTACKERS].astype(np.float64).mean(0)
    away = moved - MEAN
    cosines = away @ climbs / np.linalg.norm(away, axis=1) / np.linalg.norm(climbs)
    np.testing.assert_allclose(cosines, 1, atol=1e-3)
    assert GAE(direction="loss").trains
    assert not GAE().trains


def test_a_climb_follows_the_gradient_of_the_own_data():
    trainer, data = tiny_trainer(batch_norm=True), client_data()
    ctx = client_context(trainer)
    train, start = honest_training(ctx), ctx.global_vector.copy()
    honest = train(data)
    length = np.linalg.norm(honest[: ctx.layout.dim].astype(np.float64))

    def loss(vector):
        trainer.load(vector)
        trainer.model.eval()
        scores = trainer.model(torch.from_numpy(data.images))
        return torch.nn.functional.cross_entropy(scores, torch.from_numpy(data.labels))

    trainer.gradient.zero_()
    loss(start + honest).backward()
    gradient = trainer.gradient.double().numpy()
    row = GAE(direction="loss", climb_steps=1).train(train, data, ctx)
    np.testing.assert_allclose(row[: ctx.layout.dim], length * gradient / np.linalg.norm(gradient), rtol=1e-4, atol=1e-7)  # fmt: skip
    np.testing.assert_array_equal(row[ctx.layout.dim :], honest[ctx.layout.dim :])
    longer = GAE(direction="loss", climb_steps=10).train(train, data, ctx)
    assert np.linalg.norm(longer[: ctx.layout.dim]) <= length * (1 + 1e-5)
    longer[ctx.layout.dim :] = 0
    assert loss(start + honest + longer) > loss(start + honest)


def test_client_graphs_mix_whole_rows():
    attack = GAE(graph="clients", num_coordinates=30, features="updates", ascent_steps=0, project=False)
    crafted, _ = craft(attack, ROWS, ATTACKERS)
    mixes, *_ = np.linalg.lstsq(BENIGN.T, crafted.T.astype(np.float64), rcond=None)
    np.testing.assert_allclose(BENIGN.T @ mixes, crafted.T, atol=1e-5)
    np.testing.assert_allclose((mixes**2).sum(0), 1, atol=1e-4)  # rows of a product of orthogonal matrices


def test_coordinates_last_and_overheard_clients_change():
    few = GAE(num_overheard=2, num_coordinates=8, ascent_steps=0)
    rounds = [craft(few, ROWS, ATTACKERS, round=r)[0] for r in range(6)]
    elsewhere = np.setdiff1d(np.arange(30), coordinates_of(few))
    pairs = {tuple(row[0, elsewhere]) for row in rounds}
    means = {
        tuple(((BENIGN[i] + BENIGN[j]) / 2).astype(np.float32)[elsewhere]) for i in range(6) for j in range(i)
    }
    assert len(pairs) > 1
    for pair in pairs:
        assert any(np.allclose(pair, mean, atol=1e-6) for mean in means)


def test_warm_start_goes_on_with_the_weights_of_the_round_before():
    def said_after_two(attack):
        view, context = round_of(ROWS, ATTACKERS)
        _, state = attack.craft(attack.init(context), view, context)
        first = attack.diagnostics(state)["autoencoder_loss"]
        _, state = attack.craft(state, view, context)
        return first, attack.diagnostics(state)["autoencoder_loss"]

    first, second = said_after_two(GAE(warm_start=True))
    assert second < first
    first, second = said_after_two(GAE())
    assert second == first


def test_too_few_overheard_models_leave_the_untrained_rows():
    crafted, said = craft(GAE(), ROWS, list(range(8)))
    assert crafted is None
    assert said == {}


def test_zero_and_identical_updates_stay_finite():
    for rows in (np.zeros((5, 6), np.float32), np.ones((5, 6), np.float32)):
        crafted, said = craft(GAE(), rows, [1])
        np.testing.assert_allclose(crafted, rows[[1]], atol=1e-6)
        assert said["bound"] == 0
        assert said["within_bound"]


@pytest.mark.parametrize("attack", [GAE(num_coordinates=12), GAE(graph="clients", variational=True)])
def test_bytes_do_not_depend_on_tiling_and_buffers_are_the_mean(attack):
    layout = layout_of(27, buffers=3)
    made = [craft(attack, ROWS, ATTACKERS, layout=layout, **cut)[0] for cut in tilings(27)]
    assert made[0].tobytes() == made[1].tobytes()
    np.testing.assert_allclose(made[2], made[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(made[0][:, 27:29], np.tile(MEAN[27:29], (3, 1)), rtol=1e-5)
    np.testing.assert_array_equal(made[0][:, 29], ROWS[0, 29])


@pytest.mark.parametrize(
    "options",
    [
        {"features": "model"},
        {"graph": "client"},
        {"num_overheard": 1},
        {"hidden": 0},
        {"step": -1.0},
        {"direction": "gradient"},
        {"bound_factor": 0.0},
        {"learning_rate": 0.0},
        {"threshold": 2.0},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        GAE(**options)
