"""Models of clients from rows of the update matrix."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from defenses.client_models import bound_model, bound_models, head_inputs, map_models
from raysim.backends.base import InProcessBackend
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class NormFactory:
    """Linear, BatchNorm, linear: parameters, float buffers and a counter."""

    cam_layer: str = "0"
    head: str = "2"
    num_classes: int = 2
    input_shape: tuple[int, int, int] = (3, 1, 1)
    built: list[int] = field(default_factory=list)

    def build(self) -> nn.Module:
        self.built.append(1)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def cohort(count: int = 3) -> tuple[NormFactory, Layout, np.ndarray, np.ndarray]:
    factory = NormFactory()
    model = factory.build()
    factory.built.clear()
    layout = Layout.of(model)
    draw = np.random.default_rng(0)
    vector = draw.uniform(0.5, 1.5, layout.num_columns).astype(np.float32)
    block = draw.uniform(-0.2, 0.2, (count, layout.num_columns)).astype(np.float32)
    counters = layout.dim + layout.counter_columns()
    vector[counters], block[:, counters] = 5.0, np.arange(count)[:, None]
    return factory, layout, vector, block


def one_piece(block: np.ndarray) -> list[list[np.ndarray]]:
    return [[row] for row in block]


def loaded(factory: NormFactory, layout: Layout, vector: np.ndarray) -> nn.Module:
    """The same state put in tensor by tensor."""
    model = factory.build()
    state = {
        name: torch.from_numpy(layout.view(vector, name).copy()).to(tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32))


def test_every_row_gives_that_client_s_model(images: torch.Tensor) -> None:
    factory, layout, vector, block = cohort()
    outputs, counters = [], []
    for model in bound_models(factory, layout, vector, one_piece(block)):
        assert not model.training
        outputs.append(model(images))
        counters.append(int(model[1].num_batches_tracked))  # type: ignore[index]
    assert len(factory.built) == 1
    assert counters == [5, 6, 7]
    assert not outputs[0].requires_grad
    for row, output in zip(block, outputs, strict=True):
        assert torch.equal(output, loaded(factory, layout, vector + row)(images))
    assert not torch.equal(outputs[0], outputs[1])


def test_rows_without_buffers_keep_the_global_buffers(images: torch.Tensor) -> None:
    factory, layout, vector, block = cohort()
    without = block.copy()
    without[:, layout.dim :] = 0
    for model, row in zip(
        bound_models(factory, layout, vector, one_piece(block[:, : layout.dim])), without, strict=True
    ):
        assert torch.equal(model(images), loaded(factory, layout, vector + row)(images))


def test_arguments_are_left_alone_and_may_be_read_only(images: torch.Tensor) -> None:
    factory, layout, vector, block = cohort()
    before = vector.copy(), block.copy()
    vector.flags.writeable = block.flags.writeable = False
    for model in bound_models(factory, layout, vector, one_piece(block)):
        model(images)
    assert np.array_equal(vector, before[0])
    assert np.array_equal(block, before[1])


def test_one_model_from_one_vector(images: torch.Tensor) -> None:
    factory, layout, vector, _ = cohort()
    assert torch.equal(bound_model(factory, layout, vector)(images), loaded(factory, layout, vector)(images))


def test_head_inputs_are_what_enters_the_last_layer(images: torch.Tensor) -> None:
    factory, layout, vector, _ = cohort()
    model = bound_model(factory, layout, vector)
    representation = head_inputs(model, "2", images)
    assert representation.shape == (5, 4)
    assert torch.equal(representation, model[1](model[0](images)))  # type: ignore[index]
    assert torch.equal(model[2](representation), model(images))  # type: ignore[index]
    assert not model[2]._forward_pre_hooks  # type: ignore[index]


def test_an_unknown_head_is_refused(images: torch.Tensor) -> None:
    factory, layout, vector, _ = cohort()
    with pytest.raises(ConfigError, match=r"model\.head"):
        head_inputs(bound_model(factory, layout, vector), "3", images)


def state_of(model: nn.Module, sign: float) -> np.ndarray:
    return sign * Layout.of(model).vector(model)


@pytest.mark.parametrize("tiling", [{}, {"rows_per_block": 2}, {"bounds": (0, 5, 9)}])
def test_models_from_tiles_are_those_from_rows(tiling):
    factory, layout, vector, block = cohort(3)
    if "bounds" in tiling:
        tiling = {"bounds": (*tiling["bounds"], layout.dim)}
    ids = np.array([7, 3, 5])
    updates = Updates.from_array(block, InProcessBackend(), layout=layout, client_ids=ids, **tiling)
    found = map_models(updates, "states", state_of, factory, vector, -1.0)
    expected = [state_of(model, -1.0) for model in bound_models(factory, layout, vector, one_piece(block))]
    assert np.array_equal(found, [expected[1], expected[2], expected[0]])
    some = map_models(updates.select(np.array([0, 2])), "states", state_of, factory, vector, -1.0)
    assert np.array_equal(some, [found[0], found[2]])


def test_initial_parameters_are_not_drawn():
    """Drawing them would move the default generator, which build here does not put back."""
    factory, layout, vector, block = cohort(1)
    before = torch.random.get_rng_state()
    next(bound_models(factory, layout, vector, one_piece(block)))
    assert torch.equal(torch.random.get_rng_state(), before)
