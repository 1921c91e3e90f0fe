"""Generators keyed by purpose: the same everywhere, different for every key, and nothing global touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raysim import rng


def test_the_streams_are_these_on_every_machine():
    """Numbers written down once: a change would change every published result."""
    assert rng.key_entropy(1, 0, 7, "batches") == 224459647569490749177990742130059856131
    assert rng.generator(1, 0, 7, "batches").integers(0, 1000, 4).tolist() == [663, 856, 138, 340]
    assert rng.torch_seed(1, "model") == 8532076524380308172


def test_the_same_key_gives_the_same_stream():
    first, second = rng.generator(3, "attack", 5, 2), rng.generator(3, "attack", 5, 2)
    np.testing.assert_array_equal(first.random(8), second.random(8))


@pytest.mark.parametrize(
    "other",
    [
        (4, "attack", 5, 2),
        (3, "defense", 5, 2),
        (3, "attack", 6, 2),
        (3, "attack", 5),
        (3, "attack", 2, 5),
        (3, "attack", "5", 2),
        (3, "attack", 52),
        (3, "attac", "k", 5, 2),
    ],
)
def test_any_other_key_gives_another_stream(other):
    assert not np.array_equal(rng.generator(3, "attack", 5, 2).random(4), rng.generator(*other).random(4))


def test_numpy_integers_are_integers():
    assert rng.key_entropy(np.int64(3), np.int32(5), "a") == rng.key_entropy(3, 5, "a")


def test_first_draws_of_many_clients_look_uniform():
    draws = np.array([rng.generator(0, "train", 0, client).random() for client in range(1000)])
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert ((counts - 100.0) ** 2 / 100).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_torch_generators_follow_the_key_and_differ_from_each_other():
    def first(*key):
        return torch.rand(4, generator=rng.torch_generator(*key))

    assert torch.equal(first(0, "a"), first(0, "a"))
    assert not torch.equal(first(0, "a"), first(0, "b"))
    assert 0 <= rng.torch_seed(0, "a") < 2**63


def test_torch_randomness_seeds_the_block_alone():
    torch.default_generator.manual_seed(11)
    before = torch.get_rng_state()
    with rng.torch_randomness(0, "dropout"):
        first = torch.rand(3)
        with rng.torch_randomness(0, "inner"):
            torch.rand(1)
        after_inner = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with rng.torch_randomness(0, "dropout"):
        assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.rand(3), after_inner)
    with rng.torch_randomness(1, "dropout"):
        assert not torch.equal(torch.rand(3), first)


def test_torch_randomness_puts_the_generator_back_after_an_error():
    before = torch.get_rng_state()

    def fail():
        with rng.torch_randomness(0, "dropout"):
            torch.rand(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
