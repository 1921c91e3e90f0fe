"""Clients' heat maps: whose parameters and buffers, which image, which class, which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import defenses
from defenses.class_activation import model_maps, resize_maps
from defenses.gradcam_krum import GradCAMKrum
from defenses.layercam_ae import LayerCAMAE
from defenses.layercam_krum import LayerCAMKrum
from raysim.context import ServerData, Setting
from raysim.defense import check_setting
from raysim.errors import ConfigError, RunError
from raysim.matrix.layout import Layout
from raysim.rng import torch_randomness


@dataclass(frozen=True)
class NormFactory:
    """A network with batch normalisation that takes images of any size."""

    cam_layer: str = "2"
    head: str = "5"
    num_classes: int = 3

    def build(self) -> nn.Module:
        with torch_randomness(0, "test"):
            return nn.Sequential(
                nn.Conv2d(1, 4, 3, stride=4, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(16, 3),
            )


FACTORY = NormFactory()
LAYOUT = Layout.of(FACTORY.build())
GLOBAL = LAYOUT.vector(FACTORY.build())
DRAW = np.random.default_rng(0)
SERVER = ServerData(DRAW.random((6, 1, 16, 16), np.float32), np.array([0, 1, 2, 0, 1, 2]))


def changes(clients: int, seed: int = 1) -> np.ndarray:
    """Updates [K, d + b]: parameters a little, running means and variances much, counters by 7."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(0, 0.05, (clients, LAYOUT.num_columns)).astype(np.float32)
    for name, spread in (("1.running_mean", 1.0), ("1.running_var", 3.0)):
        view = LAYOUT.view(rows, name)
        view[:] = draw.uniform(0, spread, view.shape)
    LAYOUT.view(rows, "1.num_batches_tracked")[:] = 7
    return rows


def map_of(row: np.ndarray, image: np.ndarray, target: int | None, method: str = "layercam") -> np.ndarray:
    """The map of one client, its network filled tensor by tensor."""
    model = FACTORY.build()
    vector = GLOBAL + row
    with torch.no_grad():
        for entry, tensor in zip(
            (*LAYOUT.parameters, *LAYOUT.buffers), (*model.parameters(), *model.buffers()), strict=True
        ):
            tensor.copy_(torch.from_numpy(vector[entry.start : entry.stop]).reshape(entry.shape))
    return model_maps(model, "2", torch.from_numpy(image)[None], method=method, target=target)[0].numpy()  # type: ignore[arg-type]


@pytest.fixture
def scene(make_updates, make_context):
    def build(rows: np.ndarray, **options):
        updates = make_updates(rows, layout=LAYOUT, **options)
        return updates, make_context(updates, factory=FACTORY, server_data=SERVER, global_vector=GLOBAL)

    return build


def test_every_client_has_its_own_parameters_and_buffers(scene) -> None:
    rows = changes(5)
    updates, ctx = scene(rows)
    maps = LayerCAMKrum(probe="fixed").heat_maps(updates, ctx)
    assert maps.shape == (5, 4, 4)
    assert maps.dtype == np.float32
    for client in range(5):
        np.testing.assert_allclose(maps[client], map_of(rows[client], SERVER.images[0], target=0), atol=1e-6)
    assert maps.max() > 0.9, "the maps say something"

    without = rows.copy()
    without[:, LAYOUT.dim :] = 0
    others = LayerCAMKrum(probe="fixed").heat_maps(*scene(without))
    assert np.abs(maps - others).max(axis=(1, 2)).min() > 0.01, "and the buffers matter to every one of them"


def test_tiles_change_nothing(scene) -> None:
    rows = changes(7)
    for defense in (LayerCAMAE(interval=1, votes=1), GradCAMKrum(map_size=9)):
        verdicts = []
        for options in ({}, {"rows_per_block": 2}, {"rows_per_block": 3, "bounds": (0, 10, 41, LAYOUT.dim)}):
            updates, ctx = scene(rows, **options)
            verdict, _ = defense.apply(defense.init(ctx), updates, ctx)
            assert verdict.scores is not None
            maps = verdict.artifacts["heat_maps"]
            verdicts.append((verdict.aggregate.tobytes(), verdict.scores.tobytes(), maps.tobytes()))
        assert verdicts[0] == verdicts[1] == verdicts[2]


def test_the_probe_is_random_each_round_or_fixed(scene, make_context) -> None:
    updates, _ = scene(changes(2))
    shown: dict[str, set[bytes]] = {"per_round": set(), "fixed": set()}
    possible = {}
    for index, image in enumerate(SERVER.images):
        row = updates.to_array(buffers=True)[0]
        possible[index] = map_of(row, image, target=int(SERVER.labels[index]))
    for number in range(12):
        ctx = make_context(updates, factory=FACTORY, server_data=SERVER, global_vector=GLOBAL, round=number)
        for probe, seen in shown.items():
            found = LayerCAMKrum(probe=probe).heat_maps(updates, ctx)[0]  # type: ignore[arg-type]
            matching = [index for index, one in possible.items() if np.allclose(found, one, atol=1e-6)]
            assert len(matching) == 1, "it explains the label of the very image it shows"
            seen.add(bytes(matching))
    assert shown["fixed"] == {bytes([0])}
    assert len(shown["per_round"]) > 2


def test_the_label_or_each_clients_own_answer(scene) -> None:
    rows = changes(6, seed=2)
    LAYOUT.view(rows, "5.bias")[:] = 0
    for client in range(6):
        LAYOUT.view(rows, "5.bias")[client, client % 3] = 5  # what client k answers: k mod 3
    updates, ctx = scene(rows)
    by_label = LayerCAMKrum(probe="fixed", target="label").heat_maps(updates, ctx)
    by_answer = LayerCAMKrum(probe="fixed", target="argmax").heat_maps(updates, ctx)
    for client in range(6):
        image = SERVER.images[0]
        np.testing.assert_allclose(by_label[client], map_of(rows[client], image, target=0), atol=1e-6)
        np.testing.assert_allclose(by_answer[client], map_of(rows[client], image, client % 3), atol=1e-6)
    assert not np.allclose(by_label, by_answer)


def test_sizes_of_image_and_map(scene) -> None:
    updates, ctx = scene(changes(2))
    native = LayerCAMKrum(probe="fixed").heat_maps(updates, ctx)
    expected = resize_maps(torch.from_numpy(native), (16, 16)).numpy()
    np.testing.assert_array_equal(
        LayerCAMKrum(probe="fixed", map_size="input").heat_maps(updates, ctx), expected
    )
    assert LayerCAMKrum(map_size=7).heat_maps(updates, ctx).shape == (2, 7, 7)
    assert LayerCAMKrum(probe_size=32).heat_maps(updates, ctx).shape == (2, 8, 8)
    assert LayerCAMKrum(probe_size=32, map_size="input").heat_maps(updates, ctx).shape == (2, 32, 32)

    enlarged = np.kron(
        SERVER.images[0], np.ones((1, 2, 2), np.float32)
    )  # a flat image stays flat at any size
    flat = ServerData(np.full_like(SERVER.images, 0.5), SERVER.labels)
    rows = updates.to_array(buffers=True)
    context = type(ctx)(**{**vars(ctx), "server_data": flat})
    found = LayerCAMKrum(probe="fixed", probe_size=32).heat_maps(updates, context)[0]
    np.testing.assert_allclose(found, map_of(rows[0], np.full_like(enlarged, 0.5), target=0), atol=1e-6)


def test_exploded_models_have_zero_maps(scene) -> None:
    rows = changes(3)
    rows[1, : LAYOUT.dim] = 1e30  # finite weights, infinite activations
    maps = LayerCAMKrum().heat_maps(*scene(rows))
    assert np.isfinite(maps).all()
    assert not maps[1].any()
    assert maps[0].any()
    assert maps[2].any()


def test_exploded_models_that_are_not_scaled_are_at_the_ceiling(scene) -> None:
    rows = changes(3)
    rows[1, : LAYOUT.dim] = 1e30
    updates, ctx = scene(rows)
    maps = LayerCAMKrum(normalise="none").heat_maps(updates, ctx)
    assert maps[1].max() == 1e6
    assert 0 < maps[[0, 2]].max() < 100
    scaled = LayerCAMKrum().heat_maps(updates, ctx)
    np.testing.assert_allclose(
        scaled[[0, 2]],
        [(m - m.min()) / (1e-7 + np.ptp(m)) for m in maps[[0, 2]]],
        atol=1e-5,
    )
    assert LayerCAMKrum(normalise="none").row_stage(ctx).key != LayerCAMKrum().row_stage(ctx).key
    defense = LayerCAMAE(normalise="none")
    verdict, _ = defense.apply(defense.init(ctx), updates, ctx)
    assert verdict.flagged.tolist() == [False, True, False]


@pytest.mark.parametrize("method", ["layercam", "gradcam"])
@pytest.mark.parametrize(("size", "normalise"), [("native", "minmax"), ("input", "none"), (5, "minmax"), (5, "none")])  # fmt: skip
def test_convenience_equals_the_defense(scene, method: str, size: int | str, normalise: Any) -> None:
    rows = changes(4)
    updates, ctx = scene(rows, rows_per_block=3)
    kind = {"layercam": LayerCAMKrum, "gradcam": GradCAMKrum}[method]
    defense = kind(probe="fixed", map_size=size, normalise=normalise)
    verdict, _ = defense.apply(defense.init(ctx), updates, ctx)
    for model, options in ((FACTORY, {}), (FACTORY.build(), {"cam_layer": "2"})):
        maps = defenses.class_activation_maps(
            model,
            rows,
            GLOBAL,
            SERVER.images[0],
            method=method,  # type: ignore[arg-type]
            target=int(SERVER.labels[0]),
            size=size,
            normalise=normalise,
            **options,
        )
        assert maps.tobytes() == verdict.artifacts["heat_maps"].tobytes()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("made_inside", [False, True])
def test_convenience_in_every_mode_of_torch(mode, made_inside: bool) -> None:
    rows, image = changes(2), SERVER.images[0]
    expected = defenses.class_activation_maps(FACTORY, rows, GLOBAL, image)
    model = FACTORY.build()
    with mode():
        model = FACTORY.build() if made_inside else model
        for given, options in ((FACTORY, {}), (model, {"cam_layer": "2"})):
            found = defenses.class_activation_maps(given, rows, GLOBAL, image, **options)
            assert found.tobytes() == expected.tobytes()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert np.ptp(expected) > 0


def test_convenience_takes_the_models_buffers_where_none_are_given() -> None:
    rows, model = changes(2), FACTORY.build()
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.fill_(2)
    before = LAYOUT.vector(model)
    found = defenses.class_activation_maps(
        model, rows[:, : LAYOUT.dim], GLOBAL[: LAYOUT.dim], SERVER.images[0], target=1, cam_layer="2"
    )
    np.testing.assert_array_equal(LAYOUT.vector(model), before)
    row = rows[0].copy()
    row[LAYOUT.dim :] = 2 - GLOBAL[LAYOUT.dim :]
    np.testing.assert_allclose(found[0], map_of(row, SERVER.images[0], target=1), atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"deltas": np.zeros((2, 5))}, ["deltas", "(2, 5)"]),
        ({"deltas": np.zeros((0, LAYOUT.dim))}, ["deltas"]),
        ({"global_parameters": np.zeros(3)}, ["global_parameters", "(3,)"]),
        ({"image": np.zeros((16, 16))}, ["image", "[C, H, W]"]),
        ({"method": "layercm"}, ["method", "did you mean 'layercam'"]),
        ({"size": "nativ"}, ["size", "did you mean 'native'"]),
        ({"size": 0}, ["size"]),
        ({"normalise": "min-max"}, ["normalise", "did you mean 'minmax'"]),
        ({"size": 2.5}, ["size", "2.5", "nearest valid: 2"]),
        ({"size": None}, ["size", "None"]),
        ({"image": np.full((1, 16, 16), np.nan)}, ["image", "finite"]),
        ({"global_parameters": GLOBAL + np.inf}, ["global_parameters", "finite"]),
        ({"model": "digits_cnn"}, ["model", "torch module", "'digits_cnn'"]),
        ({"target": 3}, ["target", "0 to 2"]),
        ({"model": FACTORY.build(), "cam_layer": "7"}, ["cam_layer"]),
    ],
)
def test_convenience_refuses(changed: dict, words: list[str]) -> None:
    request = {
        "model": FACTORY,
        "deltas": changes(2),
        "global_parameters": GLOBAL,
        "image": SERVER.images[0],
        **changed,
    }
    with pytest.raises(ConfigError) as caught:
        defenses.class_activation_maps(**request)
    for word in words:
        assert word in str(caught.value)


def test_convenience_names_the_stage_where_the_network_fails() -> None:
    with pytest.raises(RunError, match="stage cam"):
        defenses.class_activation_maps(FACTORY, changes(1), GLOBAL, np.zeros((3, 16, 16), np.float32))


def test_maps_of_one_pixel_are_refused_before_the_first_round(scene, make_context) -> None:
    updates, ctx = scene(changes(2))
    small = ServerData(SERVER.images[:, :, :4, :4], SERVER.labels)
    context = make_context(updates, factory=FACTORY, server_data=small, global_vector=GLOBAL)
    with pytest.raises(ConfigError, match="more than one pixel") as caught:
        LayerCAMKrum().init(context)
    assert caught.value.key == "probe_size"
    assert LayerCAMKrum(probe_size=16).init(context) == {}
    assert LayerCAMKrum().init(ctx) == {}


def test_an_image_the_network_cannot_take_is_refused_before_the_first_round(
    tiny_model, make_updates, make_context
) -> None:
    updates = make_updates(np.zeros((2, tiny_model.layout.num_columns)), layout=tiny_model.layout)
    context = make_context(
        updates,
        factory=tiny_model.factory,
        server_data=tiny_model.server_data,
        global_vector=tiny_model.vector,
    )
    with pytest.raises(ConfigError, match="a size the network takes") as caught:
        LayerCAMKrum(probe_size=24).init(context)
    assert (caught.value.key, caught.value.value) == ("probe_size", 24)


def test_the_server_must_hold_an_image(scene, make_context) -> None:
    updates, _ = scene(changes(2))
    setting = Setting(population=9, cohort=9, num_malicious=1, rounds=5, num_classes=3, server_samples=0)
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        check_setting(LayerCAMKrum(), setting)
    context = make_context(updates, factory=FACTORY, global_vector=GLOBAL)
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        LayerCAMKrum().init(context)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("probe", "random"),
        ("target", "labels"),
        ("probe_size", 0),
        ("map_size", "inputs"),
        ("map_size", 0),
        ("map_size", True),
        ("map_size", 2.5),
        ("normalise", "max"),
    ],
)
def test_options_out_of_range(option: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        LayerCAMKrum(**{option: value})  # type: ignore[arg-type]
    assert (caught.value.key, caught.value.value) == (option, value)
