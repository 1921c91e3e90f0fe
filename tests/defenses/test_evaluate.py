from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from defenses import ServerData, evaluate_round
from defenses.clip_norm import ClipNorm
from defenses.fedavg import FedAvg
from defenses.krum import Krum
from raysim.composition.evaluate import evaluate
from raysim.context import Context, State
from raysim.defense import Defense, Verdict, chain
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.models import MODELS, build_model
from raysim.models.factory import ModuleFactory, find_layers

ROWS = np.array([[1.0, 0.0], [1.1, 0.0], [1.2, 0.0], [0.9, 0.0], [-9.0, 9.0]], np.float32)


IMAGES, LABELS = np.linspace(0, 1, 24).reshape(6, 1, 2, 2), np.array([0, 1, 1, 2, 1, 1])


@dataclass(frozen=True)
class Witness(Defense):
    """Sums up what it is shown in its scores, and counts rounds."""

    def init(self, ctx: Context) -> State:
        return {"rounds": 0}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        seen = {
            "global": ctx.global_vector,
            "examples": updates.num_examples,
            "ids": updates.client_ids,
            "draw": ctx.generator("draw").random(1),
            "round": np.array([ctx.round]),
        }
        if ctx.server_data is not None:
            seen |= {"images": ctx.server_data.images, "labels": ctx.server_data.labels}
        aggregate = updates.combine(updates.shares)
        scores = updates.client_ids.astype(np.float64)
        return Verdict(aggregate, updates.shares, scores, artifacts=seen), {"rounds": state["rounds"] + 1}


def test_by_name_with_hyper_parameters():
    verdict: Any = evaluate("multi_krum", ROWS.tolist(), num_byzantine=np.int64(1), num_selected=2)
    assert verdict.flagged.tolist() == [False, False, True, True, True]
    np.testing.assert_allclose(verdict.aggregate, [1.05, 0], rtol=1e-6)


def test_a_chain():
    verdict: Any = evaluate(chain(ClipNorm(3.0), FedAvg()), ROWS)
    last = 3 / np.sqrt(2)
    np.testing.assert_allclose(verdict.aggregate, [(4.2 - last) / 5, last / 5], rtol=1e-6)


def test_verdict_is_in_the_order_of_the_rows_given():
    ids = np.array([30, 10, 50, 20, 40])
    verdict: Any = evaluate(Witness(), ROWS, client_ids=ids, num_examples=[3, 1, 5, 2, 4])
    assert verdict.scores.tolist() == ids.tolist()
    assert verdict.weights.tolist() == [0.2, 1 / 15, 1 / 3, 2 / 15, 4 / 15]
    np.testing.assert_allclose(verdict.aggregate, verdict.weights @ ROWS, rtol=1e-6)
    assert verdict.artifacts["ids"].tolist() == [10, 20, 30, 40, 50]
    flags: Any = evaluate("krum", ROWS[::-1], client_ids=ids, num_byzantine=1).flagged
    assert flags.tolist() == [True, False, False, False, False]


def test_non_finite_rows_are_flagged_and_left_out():
    rows = ROWS.astype(np.float64)
    rows[1, 0], rows[3, 1] = np.nan, 1e39  # the second is infinite in float32
    verdict: Any = evaluate("fedavg", rows)
    assert verdict.flagged.tolist() == [False, True, False, True, False]
    assert verdict.weights.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3])
    np.testing.assert_allclose(verdict.aggregate, ROWS[[0, 2, 4]].mean(axis=0), rtol=1e-6)
    large = evaluate("fedavg", np.full((2, 3), 3e38))
    assert large.flagged is None, "finite, although its squared norm is not"
    nothing: Any = evaluate("krum", np.full((3, 2), np.nan))
    assert nothing.flagged.all()
    assert not nothing.aggregate.any()


def test_state_goes_from_round_to_round():
    first, state = evaluate_round(Witness(), ROWS)
    assert state == {"rounds": 1}
    second, state = evaluate_round(Witness(), ROWS, state=state, round=1)
    assert state == {"rounds": 2}
    assert (first.artifacts["round"], second.artifacts["round"]) == (0, 1)
    assert first.artifacts["draw"] != second.artifacts["draw"]
    assert evaluate(Witness(), ROWS).artifacts["draw"] == first.artifacts["draw"]
    assert evaluate(Witness(), ROWS, seed=1).artifacts["draw"] != first.artifacts["draw"]


def test_global_parameters():
    assert evaluate(Witness(), ROWS).artifacts["global"].tolist() == [0, 0]
    assert evaluate(Witness(), ROWS, global_parameters=[1, 2]).artifacts["global"].tolist() == [1, 2]


def network_with_buffers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))


def test_a_model_brings_layout_parameters_and_buffers():
    model = network_with_buffers()
    layout = Layout.of(model)
    rows = np.ones((3, layout.dim), np.float32)
    seen = evaluate(Witness(), rows, model=model).artifacts["global"]
    assert seen.tobytes() == layout.vector(model).tobytes()
    given = evaluate(Witness(), rows, model=model, global_parameters=np.zeros(layout.dim)).artifacts["global"]
    assert not given[: layout.dim].any()
    assert given[layout.dim :].tobytes() == layout.vector(model)[layout.dim :].tobytes()
    whole = np.ones((3, layout.num_columns), np.float32)
    assert evaluate(Witness(), whole, model=model).aggregate.shape == (layout.dim,)


def test_the_model_is_copied_and_its_factory_can_be_pickled():
    model = network_with_buffers()
    factory = ModuleFactory(model, "0", "3")
    copy = pickle.loads(pickle.dumps(factory)).build()
    assert factory.num_classes == 3
    assert factory.build() is not model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


@pytest.mark.parametrize("name", ["digits_cnn", "vgg9", "flare_kather", "dba_resnet18"])
def test_layers_of_known_architectures(name):
    side = 80 if name == "flare_kather" else 32
    model = build_model(name, num_classes=4, input_shape=(3, side, side), seed=0, width=0.0625)
    assert find_layers(model) == (MODELS[name].cam_layer, MODELS[name].head)


def test_layers_of_unknown_networks():
    assert find_layers(network_with_buffers()) == ("0", "3")
    assert find_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 5))) == ("", "1")
    deeper = nn.ModuleDict(
        {
            "features": nn.ModuleDict({"relu2": nn.ReLU(), "conv3": nn.Conv2d(1, 1, 1)}),
            "head": nn.Linear(1, 2),
        }
    )
    assert find_layers(deeper) == ("features.conv3", "head"), "a convolution follows the known layer"
    with pytest.raises(ConfigError, match=r"nn\.Linear"):
        find_layers(nn.Conv2d(1, 1, 1))


def refused(*args: object, **kwargs: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        evaluate(*args, **kwargs)  # type: ignore[arg-type]
    return caught.value


def test_names_and_hyper_parameters_are_checked():
    assert refused("krun", ROWS).nearest == "krum"
    unknown = refused("krum", ROWS, num_byzantin=1)
    assert (unknown.key, unknown.nearest) == ("defense.num_byzantin", "num_byzantine")
    assert refused("krum", ROWS, num_byzantine="one").key == "defense.num_byzantine"
    assert "defense that is given" in str(refused(Krum(), ROWS, num_byzantine=1))


@pytest.mark.parametrize("name", ["krum", Krum(2), chain(ClipNorm(3.0), Krum(2))])
def test_hyper_parameters_that_do_not_fit_the_rows_are_named_like_the_others(name):
    error = refused(name, ROWS, **({"num_byzantine": 2} if name == "krum" else {}))
    assert (error.key, error.value, error.nearest) == ("defense.num_byzantine", 2, 1), "K >= 2 f + 3"


@pytest.mark.parametrize(("name", "nearest"), [(3, None), (None, None), (Krum, "krum"), (b"rfa", "rfa")])
def test_what_is_no_name_is_refused(name, nearest):
    error = refused(name, ROWS)
    assert (error.key, error.value, error.nearest) == ("defense.name", name, nearest)


def test_hyper_parameters_that_pass_for_numbers_are_refused():
    assert refused("rfa", ROWS, smoothing=np.inf).key == "defense.smoothing"
    assert refused("multi_krum", ROWS, num_selected=True).key == "defense.num_selected"


@pytest.mark.parametrize("given", [ServerData(IMAGES, LABELS), (IMAGES.tolist(), LABELS.astype(np.int16))])
def test_server_data_is_converted(given):
    seen = evaluate(Witness(), ROWS, server_data=given).artifacts
    assert (seen["images"].dtype, seen["labels"].dtype) == (np.float32, np.int64)
    assert seen["images"].tobytes() == IMAGES.astype(np.float32).tobytes()
    assert seen["labels"].tolist() == LABELS.tolist()


def test_server_data_that_fits_is_not_copied():
    held = ServerData(IMAGES.astype(np.float32), LABELS)
    seen = evaluate(Witness(), ROWS, server_data=held).artifacts
    assert seen["images"] is held.images
    assert seen["labels"] is held.labels


def test_a_label_that_the_server_does_not_have_is_refused_with_the_nearest():
    model = network_with_buffers()
    rows = np.zeros((5, Layout.of(model).dim), np.float32)
    error = refused("flare", rows, model=model, server_data=(IMAGES, LABELS), label=2, samples=4)
    assert (error.key, error.value, error.nearest) == ("defense.label", 2, 1), "one sample of class 2"


def test_the_state_of_an_earlier_call():
    assert "rounds" in refused(Witness(), ROWS, state={}).rule
    assert "layers" in refused("foolsgold", ROWS, state={}, features="all").rule
    given, first = evaluate("krum", ROWS, state={}), evaluate("krum", ROWS)
    assert given.aggregate.tobytes() == first.aggregate.tobytes()


def test_client_ids_that_repeat_are_named():
    error = refused("fedavg", ROWS, client_ids=[7, 3, 7, 1, 3])
    assert (error.key, error.value) == ("client_ids", [3, 7])


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("deltas", {"deltas": np.zeros(3)}),
        ("deltas", {"deltas": np.zeros((0, 3))}),
        ("deltas", {"deltas": [["a", "b"]]}),
        ("client_ids", {"client_ids": [1, 2]}),
        ("client_ids", {"client_ids": [1, 2, 3, 4, 4]}),
        ("client_ids", {"client_ids": [0.5, 1, 2, 3, 4]}),
        ("num_examples", {"num_examples": [1, 2, 3, 4, -5]}),
        ("global_parameters", {"global_parameters": np.zeros(3)}),
        ("global_parameters", {"global_parameters": [np.nan, 0]}),
        ("global_parameters", {"global_parameters": [0, 1e39]}),
        ("global_parameters", {"global_parameters": "none"}),
        ("server_data", {"server_data": IMAGES}),
        ("server_data", {"server_data": (IMAGES, LABELS, LABELS)}),
        ("server_data", {"server_data": (IMAGES + np.inf, LABELS)}),
        ("server_data", {"server_data": (IMAGES[0], LABELS)}),
        ("server_data", {"server_data": ([["a"]], LABELS)}),
        ("server_data", {"server_data": ServerData(IMAGES, LABELS[:5])}),
        ("server_data", {"server_data": (IMAGES, LABELS - 1)}),
        ("server_data", {"server_data": (IMAGES, LABELS / 2)}),
        ("model", {"model": "digits_cnn"}),
        ("model", {"model": nn.Linear}),
        ("model", {"model": ModuleFactory}),
        ("state", {"state": [1]}),
        ("deltas", {"model": network_with_buffers()}),
        ("head", {"model": nn.Linear(1, 1), "cam_layer": "", "head": "hed"}),
    ],
)
def test_what_does_not_fit_is_refused(key, wrong):
    assert refused("fedavg", **{"deltas": ROWS, **wrong}).key == key


def test_a_defense_that_needs_a_model_says_so():
    assert refused("layercam_krum", ROWS).key in ("model", "server_data.samples")
