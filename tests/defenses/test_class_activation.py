"""Class activation maps against pytorch-grad-cam and by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses.class_activation import (
    CEILING,
    SKINNY,
    _small_convolutions,
    bounded,
    gradcam,
    layercam,
    model_maps,
    rescale,
    resize_maps,
)
from raysim.errors import ConfigError
from raysim.models import MODELS, build_model
from raysim.models.torchvision_compat import import_torchvision

# Two channels of a 2x2 activation map A and the gradients g of the class score.
A = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 2.0]]]])
G = torch.tensor([[[[1.0, -1.0], [2.0, 2.0]], [[-2.0, 1.0], [-1.0, 0.0]]]])


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(inplace: bool = False) -> nn.Module:
    model = build_model("digits_cnn", num_classes=4, input_shape=(1, 8, 8), seed=0, width=0.25)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = inplace
    return model


def test_gradcam_by_hand() -> None:
    # channel weights: mean(1, -1, 2, 2) = 1 and mean(-2, 1, -1, 0) = -1/2
    assert gradcam(A, G).tolist() == [[[0.0, 2.0], [3.0, 3.0]]]  # 1 - 2 is cut to 0


def test_layercam_by_hand() -> None:
    # positive gradients: [[1, 0], [2, 2]] and [[0, 1], [0, 0]]
    assert layercam(A, G).tolist() == [[[1.0, 0.0], [6.0, 8.0]]]


@pytest.mark.parametrize(
    ("method", "expected"),
    [("gradcam", [[0.0, 2 / 3], [1.0, 1.0]]), ("layercam", [[1 / 8, 0.0], [6 / 8, 1.0]])],
)
def test_whole_pipeline_by_hand(method: str, expected: list[list[float]]) -> None:
    # The image is A itself; the head is linear with the gradients G for class 1 and their opposite for class 0.
    head = nn.Linear(8, 2, bias=False)
    head.weight.data = torch.stack([-G.flatten(), G.flatten()])
    model = nn.Sequential(nn.Identity(), nn.Flatten(), head)
    # the score of class 1 is 1 - 2 + 6 + 8 - 8 = 5 > -5
    for target in (1, None):
        maps = model_maps(model, "0", A, method=method, target=target)  # type: ignore[arg-type]
        assert maps[0].tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "regnet_y_800mf", "flare_cifar"])
def test_against_pytorch_grad_cam(name: str, method: str) -> None:
    import_torchvision()
    package = pytest.importorskip("pytorch_grad_cam")
    size = 32 if name == "flare_cifar" else 64
    model = build_model(name, num_classes=10, input_shape=(3, size, size), seed=0).eval()
    batch = images(3, 3, size, size) * 2 - 1
    layer = MODELS[name].cam_layer
    published = {"gradcam": package.GradCAM, "layercam": package.LayerCAM}[method]
    for target in (None, 7):
        targets = None
        if target is not None:
            targets = [package.utils.model_targets.ClassifierOutputTarget(target)] * len(batch)
        with published(model, [model.get_submodule(layer)]) as reference:
            expected = torch.from_numpy(reference(batch, targets))
        native = model_maps(model, layer, batch, method=method, target=target)  # type: ignore[arg-type]
        maps = resize_maps(native, (size, size))
        assert maps.shape == expected.shape
        assert (maps - expected).abs().max() <= 1e-5
        assert expected.amax() > 0.5  # the reference map is not the trivial one
        for place in range(
            len(batch)
        ):  # one image alone, as the defenses show it, takes other ways of computing
            alone = model_maps(model, layer, batch[place : place + 1], method=method, target=target)  # type: ignore[arg-type]
            assert (resize_maps(alone, (size, size))[0] - expected[place]).abs().max() <= 1e-5


def test_images_of_a_batch_are_independent() -> None:
    model, batch = tiny(), images(3, 1, 8, 8)
    together = model_maps(model, "features.relu2", batch, method="layercam", target=None)
    for index in range(3):
        alone = model_maps(model, "features.relu2", batch[index : index + 1], method="layercam", target=None)
        assert torch.allclose(together[index], alone[0], atol=1e-6)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("layer", ["features.conv1", "features.relu1", "features.conv2", "features.relu2"])
def test_in_place_activations_change_nothing(layer: str, method: str) -> None:
    batch = images(2, 1, 8, 8)
    plain, overwriting = (
        model_maps(tiny(inplace), layer, batch, method=method, target=1)  # type: ignore[arg-type]
        for inplace in (False, True)
    )
    assert plain.amax() > 0.5
    assert torch.equal(plain, overwriting)


def test_model_is_left_as_it_was() -> None:
    model = build_model("dba_resnet18", num_classes=3, input_shape=(3, 8, 8), seed=0, width=0.125).train()
    model.get_submodule("layer1").eval()
    next(model.parameters()).requires_grad_(False)
    modes = [module.training for module in model.modules()]
    learning = [parameter.requires_grad for parameter in model.parameters()]
    state = copy.deepcopy(model.state_dict())

    model_maps(model, "layer4.1", images(2, 3, 8, 8), method="gradcam", target=None)
    with pytest.raises(ConfigError):
        model_maps(model, "head", images(2, 3, 8, 8), method="gradcam", target=None)

    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())


def test_one_forward_pass_without_gradient_to_the_early_layers() -> None:
    model = tiny()
    calls: list[bool] = []
    model.features.conv2.register_forward_hook(  # type: ignore[union-attr]
        lambda module, inputs, output: calls.append(output.requires_grad)
    )
    with torch.no_grad():
        maps = model_maps(model, "features.relu2", images(1, 1, 8, 8), method="gradcam", target=0)
    assert calls == [False]
    assert not maps.requires_grad


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("scale", [1e15, 1e38, math.inf, math.nan])
def test_exploded_weights_give_finite_maps(scale: float, method: str) -> None:
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    for target in (None, 2):
        maps = model_maps(
            model,
            "features.relu2",
            images(2, 1, 8, 8),
            method=method,  # type: ignore[arg-type]
            target=target,
        )
        assert torch.isfinite(maps).all()
        assert maps.amin() >= 0
        assert maps.amax() <= 1
    if not math.isfinite(scale):
        assert maps.count_nonzero() == 0


def test_rescale_handles_each_map_alone() -> None:
    maps = torch.tensor([[[0.0, 4.0], [1.0, 2.0]], [[0.0, math.inf], [1.0, 2.0]], [[3.0, 3.0], [3.0, 3.0]]])
    assert rescale(maps)[0].tolist() == [[0.0, pytest.approx(1)], [pytest.approx(0.25), pytest.approx(0.5)]]
    assert rescale(maps)[1:].count_nonzero() == 0


@pytest.mark.parametrize(("method", "expected"), [("gradcam", [[0, 1], [4, 0]]), ("layercam", [[0, 2], [8, 0]])])  # fmt: skip
def test_without_normalisation_maps_are_as_the_equations_give_them(method, expected) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[2].weight.copy_(torch.tensor([[-1.0, 2.0, 2.0, 1.0]]))  # the gradient: mean 1
    batch = torch.tensor([[[[-3.0, 1.0], [4.0, -1.0]]]])
    maps = model_maps(model, "0", batch, method=method, target=0, normalise="none")
    assert maps[0].tolist() == expected
    scaled = model_maps(model, "0", batch, method=method, target=0)
    assert torch.allclose(rescale(maps), scaled)


def test_a_map_that_is_not_scaled_ends_at_the_ceiling() -> None:
    maps = torch.tensor([[[0.0, math.nan], [math.inf, 2e6]], [[0.0, 4.0], [1.0, 2.0]]])
    assert bounded(maps).tolist() == [[[0, CEILING], [CEILING, CEILING]], [[0, 4], [1, 2]]]
    assert resize_maps(maps[1:], (1, 1), "none").tolist() == [[[1.75]]]


def test_resize_is_bilinear_and_fills_the_range_again() -> None:
    resized = resize_maps(torch.tensor([[[0.0, 0.5], [0.5, 1.0]]]), (4, 4))
    # half-pixel centres: 0, 1/4, 3/4, 1 along each side
    side = torch.tensor([0.0, 0.25, 0.75, 1.0])
    assert torch.allclose(resized[0], (side[:, None] + side) / 2, atol=1e-6)
    shrunk = resize_maps(images(1, 8, 8), (2, 3))
    assert shrunk.shape == (1, 2, 3)
    assert (shrunk.amin().item(), shrunk.amax().item()) == (0.0, pytest.approx(1.0, abs=1e-5))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": "layer_cam"}, ["method", "did you mean 'layercam'"]),
        ({"cam_layer": "features.relu3"}, ["cam_layer", "features.relu2"]),
        ({"cam_layer": "head"}, ["cam_layer", "[B, m, h, w]"]),
        ({"target": 4}, ["target", "0 to 3"]),
        ({"target": -1}, ["target", "0 to 3"]),
    ],
)
def test_refusals(changed: dict, words: list[str]) -> None:
    request = {"cam_layer": "features.relu2", "method": "gradcam", "target": None, **changed}
    with pytest.raises(ConfigError) as caught:
        model_maps(tiny(), images=images(1, 1, 8, 8), **request)
    for word in words:
        assert word in str(caught.value)


def test_a_layer_that_the_forward_pass_skips_is_refused() -> None:
    model = tiny()
    model.register_module("unused", nn.Conv2d(1, 1, 1))
    model.forward = lambda batch: model.head(model.relu(model.hidden(model.features(batch))))  # type: ignore
    with pytest.raises(ConfigError, match="calls"):
        model_maps(model, "unused", images(1, 1, 8, 8), method="gradcam", target=None)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 1), "padding": (1, 0), "stride": (1, 2)},
        {"kernel_size": 2, "dilation": 2},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 1, "groups": 2},
    ],
)
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (9, 9)])
@pytest.mark.parametrize("channels", [4, SKINNY // 8], ids=["few inputs", "many inputs"])
def test_small_convolutions_are_convolutions(
    options: dict[str, Any], size: tuple[int, int], channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 6, **options))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
        parameter.data /= channels  # so that sums over many inputs stay near 1, and errors comparable
    batch = torch.randn(1, channels, *size, generator=generator, requires_grad=True)
    expected = model(batch)
    (slope,) = torch.autograd.grad(expected.square().sum(), batch)
    with _small_convolutions(list(model.modules())):
        found = model(batch)
    assert found.shape == expected.shape
    assert found.is_contiguous(), "channels-last output would make the next convolution reorder its weights"
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(torch.autograd.grad(found.square().sum(), batch)[0], slope, atol=1e-3)
    assert "forward" not in vars(model[0])
