import numpy as np
import pytest
import torch
from torch.nn import functional

from attacks.graph_autoencoder import (
    AutoencoderRecipe,
    cosine_graph,
    decode,
    fit_autoencoder,
    initial_weights,
    laplacian_basis,
    positive_weight,
    propagation,
    repeated,
)

pytestmark = pytest.mark.usefixtures("one_thread")


PATH = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], float)


def test_edges_are_cosines_above_the_threshold():
    nodes = np.array([[1, 0], [1, 1], [-1, 0], [0, 0]], float)
    joined = np.zeros((4, 4))
    joined[0, 1] = joined[1, 0] = 1  # cosine 1 / sqrt(2)
    np.testing.assert_array_equal(cosine_graph(nodes, 0.5), joined)
    np.testing.assert_array_equal(cosine_graph(nodes, 0.71), np.zeros((4, 4)))


def test_laplacian_basis_of_a_path():
    basis, values = laplacian_basis(PATH)
    np.testing.assert_allclose(values, [3, 1, 0], atol=1e-12)
    np.testing.assert_allclose(basis[:, 0], np.array([-1, 2, -1]) / np.sqrt(6), atol=1e-12)
    np.testing.assert_allclose(np.abs(basis[:, 1]), np.array([1, 0, 1]) / np.sqrt(2), atol=1e-12)
    np.testing.assert_allclose(basis[:, 2], np.ones(3) / np.sqrt(3), atol=1e-12)
    assert (basis[np.abs(basis).argmax(0), range(3)] > 0).all()
    assert repeated(values) == 0
    assert repeated(laplacian_basis(np.ones((4, 4)) - np.eye(4))[1]) == 2  # 4, 4, 4, 0


def test_propagation_and_weights_of_a_path():
    expected = [[1 / 2, 1 / 6**0.5, 0], [1 / 6**0.5, 1 / 3, 1 / 6**0.5], [0, 1 / 6**0.5, 1 / 2]]
    np.testing.assert_allclose(propagation(PATH), expected)
    assert positive_weight(PATH) == (9 - 4) / 4
    assert positive_weight(np.zeros((3, 3))) == positive_weight(np.ones((3, 3)) - np.eye(3)) == 1


def test_the_decoder_is_a_sigmoid_of_inner_products():
    np.testing.assert_allclose(decode(np.array([[1.0], [-2.0]])), 1 / (1 + np.exp([[-1, 2], [2, -4]])))


def test_one_step_follows_the_printed_formulas():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(3, 2))
    recipe = AutoencoderRecipe(hidden=4, latent=2, epochs=1, learning_rate=0.1)
    weights = initial_weights(2, recipe, generator)
    redrawn, fitted, loss = fit_autoencoder(PATH, features, weights, recipe, generator)

    mixing, x = torch.tensor(propagation(PATH)), torch.tensor(features)
    first, second = (torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in weights)
    code = mixing @ torch.relu(mixing @ x @ first) @ second
    probability = torch.sigmoid(code @ code.T)
    target = torch.tensor(PATH + np.eye(3))
    weight = torch.where(target == 1, 1.25, 1.0)
    expected = functional.binary_cross_entropy(probability, target, weight=weight)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for before, after, theta in zip(weights, fitted, (first, second), strict=True):
        assert theta.grad is not None
        moved = theta.grad.abs() > 1e-6
        step = -0.1 * theta.grad.sign()
        np.testing.assert_allclose((after - before)[moved], step.numpy()[moved], rtol=1e-3)
    hidden = np.maximum(propagation(PATH) @ features @ fitted[0], 0)
    np.testing.assert_allclose(redrawn, decode(propagation(PATH) @ hidden @ fitted[1]), rtol=1e-5)


def two_groups():
    """Two groups of four nodes, joined inside, and nodes that say which group they are in."""
    adjacency = np.kron(np.eye(2), np.ones((4, 4))) - np.eye(8)
    return adjacency, np.repeat(np.eye(2), 4, axis=0)


def test_fitting_recovers_two_groups():
    adjacency, features = two_groups()
    recipe = AutoencoderRecipe(epochs=100)
    generator = np.random.default_rng(1)
    weights = initial_weights(2, recipe, generator)
    redrawn, _, loss = fit_autoencoder(adjacency, features, weights, recipe, generator)
    _, _, loss_before = fit_autoencoder(adjacency, features, weights, AutoencoderRecipe(epochs=1), generator)
    assert loss < 0.8 * loss_before
    assert redrawn[:4, :4].min() > redrawn[:4, 4:].max() + 0.2


def test_the_variational_penalty_shrinks_the_codes():
    adjacency, features = two_groups()
    spread = {}
    for kl_weight in (0.0, 100.0):
        recipe = AutoencoderRecipe(epochs=150, kl_weight=kl_weight)
        weights = initial_weights(2, recipe, np.random.default_rng(2))
        assert [w.shape for w in weights] == [(2, 32), (32, 16), (32, 16)]
        redrawn, _, _ = fit_autoencoder(adjacency, features, weights, recipe, np.random.default_rng(3))
        spread[kl_weight] = np.abs(redrawn - 0.5).max()
    assert spread[100.0] < 0.5 * spread[0.0]
