"""Model state as one flat vector: order, round trips, views, counters."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout
from tests.small_models import SmallNet


class Odd(nn.Module):
    """A scalar, a shared weight, an integer, a boolean and a double buffer, and an empty one."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.first = nn.Linear(2, 2, bias=False)
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied.weight = self.first.weight
        self.register_buffer("mean", torch.tensor([1.0, 2.0]))
        self.register_buffer("steps", torch.tensor(5))
        self.register_buffer("seen", torch.tensor([True, False]))
        self.register_buffer("exact", torch.tensor([0.5], dtype=torch.float64))
        self.register_buffer("none", torch.zeros(0))


@pytest.fixture
def batchnorm():
    model = SmallNet("batchnorm").build()
    return model, Layout.of(model)


def test_columns_are_parameters_then_buffers_in_module_order(batchnorm):
    _, layout = batchnorm
    names = ["body.weight", "body.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert [entry.name for entry in layout.parameters] == names
    assert [e.name for e in layout.buffers] == [
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"
    ]  # fmt: skip
    assert layout.dim == 5 * 16 + 5 + 5 + 5 + 3 * 5 + 3 == 113
    assert layout.num_columns == 113 + 5 + 5 + 1
    assert layout.entry("body.bias") == Entry("body.bias", (5,), 80, 85)
    assert layout.counters == {"norm.num_batches_tracked"}
    assert layout.counter_columns().tolist() == [10]


def test_vector_is_the_flattened_state(batchnorm):
    model, layout = batchnorm
    expected = [t.detach().numpy().ravel() for t in (*model.parameters(), *model.buffers())]
    vector = layout.vector(model)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.concatenate(expected))
    vector[:] = 7
    assert layout.vector(model)[0] != 7


def test_view_reshapes_without_a_copy(batchnorm):
    _, layout = batchnorm
    matrix = np.arange(2 * layout.num_columns, dtype=np.float32).reshape(2, -1)
    head = layout.view(matrix, "head.weight")
    assert head.shape == (2, 3, 5)
    assert head[1, 2, 4] == matrix[1, 95 + 14]
    assert np.shares_memory(head, matrix)
    np.testing.assert_array_equal(layout.view(matrix[0, : layout.dim], "head.bias"), matrix[0, 110:113])


def test_unknown_names_are_refused_with_the_nearest(batchnorm):
    with pytest.raises(ConfigError, match=r"received 'head.wieght'; did you mean 'head.weight'\?"):
        batchnorm[1].entry("head.wieght")


def test_bind_makes_the_model_a_view_of_the_vector(batchnorm):
    model, layout = batchnorm
    vector = torch.from_numpy(layout.vector(model))
    vector[-1] = 9
    layout.bind(model, vector)
    vector[:80] = 0.25
    vector[113:118] = 3
    assert (model.body.weight == 0.25).all()
    assert (model.norm.running_mean == 3).all()
    assert model.norm.num_batches_tracked.item() == 9
    assert model.norm.num_batches_tracked.dtype == torch.int64
    with torch.no_grad():
        model.head.bias += 1
        model.norm.running_var.fill_(4)
    assert (vector[118:123] == 4).all()
    np.testing.assert_array_equal(layout.vector(model), vector.numpy())


def test_counters_are_copied_both_ways(batchnorm):
    model, layout = batchnorm
    vector = torch.zeros(layout.num_columns)
    layout.bind(model, vector)
    model.norm.num_batches_tracked += 4
    assert vector[-1] == 0
    layout.write_counters(model, vector)
    assert vector[-1] == 4
    vector[-1] = 12
    layout.read_counters(model, vector)
    assert model.norm.num_batches_tracked.item() == 12


def test_a_bound_model_computes_what_the_same_model_does(batchnorm):
    model, layout = batchnorm
    twin = SmallNet("batchnorm").build()
    layout.bind(twin, torch.from_numpy(layout.vector(model)))
    x = torch.rand(6, 1, 4, 4)
    assert torch.equal(model(x), twin(x))
    np.testing.assert_array_equal(layout.vector(model), layout.vector(twin))


def test_tied_weights_scalars_and_buffers_of_every_type():
    model = Odd()
    layout = Layout.of(model)
    assert [(e.name, e.shape) for e in layout.parameters] == [("scale", ()), ("first.weight", (2, 2))]
    assert layout.counters == {"steps", "seen"}
    assert layout.num_columns == 1 + 4 + 2 + 1 + 2 + 1 + 0
    np.testing.assert_array_equal(layout.vector(model)[5:], [1, 2, 5, 1, 0, 0.5])
    vector = torch.from_numpy(layout.vector(model))
    layout.bind(model, vector)
    vector[0], vector[1:5] = 3, 8
    assert model.scale.item() == 3
    assert (model.tied.weight == 8).all()
    with torch.no_grad():
        model.steps += 1
        model.exact += 1
        model.mean += 1
    layout.write_counters(model, vector)
    np.testing.assert_array_equal(vector[5:], [2, 3, 6, 1, 0, 1.5])
    vector[5:] = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 0.25])
    layout.read_counters(model, vector)
    assert (model.steps.item(), model.seen.tolist(), model.exact.item()) == (1, [False, True], 0.25)
    assert model.exact.dtype == torch.float64


def test_a_model_without_buffers_and_a_vector_without_a_model():
    layout = Layout.of(SmallNet().build())
    assert layout.num_columns == layout.dim == 103
    assert len(layout.counter_columns()) == 0
    flat = Layout.flat(7)
    assert (flat.dim, flat.num_columns) == (7, 7)
    np.testing.assert_array_equal(flat.view(np.arange(7), "vector"), np.arange(7))
    assert (Layout(()).dim, Layout(()).num_columns) == (0, 0)


def test_a_layout_comes_back_from_json_and_gives_the_state_dict(batchnorm):
    model, layout = batchnorm
    model.norm.num_batches_tracked += 3
    vector = layout.vector(model)
    again = Layout.from_tree(json.loads(json.dumps(layout.tree())))
    assert again == layout
    state = again.state_dict(vector)
    assert state["norm.num_batches_tracked"].dtype == torch.int64
    for name, tensor in model.state_dict().items():
        assert torch.equal(state.pop(name), tensor), name
    assert not state
    other = SmallNet("batchnorm").build()
    other.load_state_dict(again.state_dict(vector))
    np.testing.assert_array_equal(layout.vector(other), vector)
