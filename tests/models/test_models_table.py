"""Every network of the table: parameter counts, where its named layers lie, options, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from raysim.errors import ConfigError
from raysim.models import MODELS, build_model

# name, image shape, classes -> parameters, activation map [m, h, w], width of the penultimate layer
PUBLISHED = [
    ("digits_cnn", (1, 8, 8), 10, 13_706, (32, 4, 4), 64),
    ("flare_fmnist", (1, 28, 28), 10, 3_382_346, (64, 20, 20), 128),
    ("flare_cifar", (3, 32, 32), 10, 109_834, (64, 4, 4), 128),
    ("flare_kather", (3, 128, 128), 8, 449_736, (128, 8, 8), 128),
    ("leaf_cnn", (1, 28, 28), 62, 6_603_710, (64, 14, 14), 2048),
    ("lenet_wang", (1, 28, 28), 10, 1_199_882, (64, 24, 24), 128),
    ("vgg9", (3, 32, 32), 10, 9_225_610, (512, 2, 2), 512),
    ("dba_mnist_cnn", (1, 28, 28), 10, 431_080, (50, 8, 8), 500),
    ("dba_resnet18", (3, 32, 32), 10, 2_797_610, (256, 4, 4), 256),
    ("resnet18_cifar", (3, 32, 32), 10, 11_173_962, (512, 4, 4), 512),
    ("resnet18", (3, 64, 64), 10, 11_181_642, (512, 2, 2), 512),
    ("resnet50", (3, 64, 64), 10, 23_528_522, (2048, 2, 2), 2048),
    ("mobilenet_v3_large", (3, 64, 64), 10, 4_214_842, (960, 2, 2), 1280),
    ("regnet_y_800mf", (3, 64, 64), 10, 5_655_362, (784, 2, 2), 784),
]
SHAPES = {name: (shape, classes) for name, shape, classes, *_ in PUBLISHED}

# base + (F + 1) C for the class counts of the class-activation-map papers
WITH_CLASSES = {
    "resnet18": {43: 11_198_571, 100: 11_227_812, 200: 11_279_112, 1000: 11_689_512},
    "resnet50": {43: 23_596_139, 100: 23_712_932, 200: 23_917_832, 1000: 25_557_032},
    "mobilenet_v3_large": {43: 4_257_115, 100: 4_330_132, 200: 4_458_232, 1000: 5_483_032},
    "regnet_y_800mf": {43: 5_681_267, 100: 5_726_012, 200: 5_804_512, 1000: 6_432_512},
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def small(name: str, seed: int = 0, **options: object) -> nn.Module:
    shape, classes = SHAPES[name]
    return build_model(name, num_classes=classes, input_shape=shape, seed=seed, **options)


def test_every_network_is_checked_against_its_publication() -> None:
    assert sorted(SHAPES) == sorted(MODELS)


@pytest.mark.parametrize(("name", "shape", "classes", "count", "activation", "penultimate"), PUBLISHED)
def test_count_activation_map_and_head(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    count: int,
    activation: tuple[int, int, int],
    penultimate: int,
) -> None:
    model = build_model(name, num_classes=classes, input_shape=shape, seed=0).eval()
    assert parameters(model) == count

    seen: dict[str, torch.Size] = {}
    architecture = MODELS[name]
    model.get_submodule(architecture.cam_layer).register_forward_hook(
        lambda module, inputs, output: seen.update(cam=output.shape)
    )
    head = model.get_submodule(architecture.head)
    head.register_forward_hook(lambda module, inputs, output: seen.update(head=inputs[0].shape))
    with torch.no_grad():
        scores = model(torch.zeros(2, *shape))
    assert scores.shape == (2, classes)
    assert seen["cam"] == (2, *activation)
    assert seen["head"] == (2, penultimate)

    state = model.state_dict()
    assert state[f"{architecture.head}.weight"].shape == (classes, penultimate)
    assert state[f"{architecture.head}.bias"].shape == (classes,)
    assert list(state)[-2:] == [f"{architecture.head}.weight", f"{architecture.head}.bias"]


@pytest.mark.parametrize("name", sorted(WITH_CLASSES))
def test_counts_for_more_classes(name: str) -> None:
    shape, classes = SHAPES[name]
    model = small(name)
    features = model.get_submodule(MODELS[name].head).in_features
    for more, count in WITH_CLASSES[name].items():
        assert parameters(model) + (features + 1) * (more - classes) == count  # type: ignore[operator]
    most = max(WITH_CLASSES[name])
    if name == "mobilenet_v3_large":  # the cheapest one proves that the head alone grows
        grown = build_model(name, num_classes=most, input_shape=shape, seed=0)
        assert parameters(grown) == WITH_CLASSES[name][most]


def test_output_is_the_class_score_not_a_log_probability() -> None:
    for name in ("dba_mnist_cnn", "lenet_wang"):
        scores = small(name).eval()(torch.rand(1, 1, 28, 28))
        assert not torch.allclose(scores.exp().sum(), torch.tensor(1.0), atol=1e-3)


def test_seed_decides_and_the_default_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (small("digits_cnn", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.head.weight, other.head.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(("name", "rates"), [("flare_fmnist", [0.25, 0.5]), ("lenet_wang", [0.25, 0.5])])
def test_dropout_rates(name: str, rates: list[float]) -> None:
    kinds = (nn.Dropout, nn.Dropout2d)
    assert [module.p for module in small(name).modules() if isinstance(module, kinds)] == rates


@pytest.mark.parametrize(
    "name", ["dba_resnet18", "resnet18_cifar", "resnet18", "mobilenet_v3_large", "regnet_y_800mf"]
)
def test_group_norm_keeps_the_count_and_drops_the_buffers(name: str) -> None:
    model = small(name, norm="group")
    assert parameters(model) == next(row[3] for row in PUBLISHED if row[0] == name)
    assert list(model.buffers()) == []
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_width_scales_every_layer() -> None:
    # 1x3x3x8+8, 8x3x3x16+16, 64x32+32, 32x10+10
    assert parameters(small("digits_cnn", width=0.5)) == 80 + 1168 + 2080 + 330
    for name in sorted(MODELS):
        if "width" in MODELS[name].options:
            shape, classes = SHAPES[name]
            model = small(name, width=0.25).eval()
            assert parameters(model) < parameters(small(name)) / 4
            assert model(torch.zeros(1, *shape)).shape == (1, classes)


def test_mobilenet_keeps_torchvisions_batch_norm() -> None:
    norms = [m for m in small("mobilenet_v3_large").modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.01)}


@pytest.mark.parametrize(("name", "shape"), [("flare_cifar", (1, 28, 28)), ("digits_cnn", (3, 9, 13))])
def test_other_image_shapes(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(name, num_classes=5, input_shape=shape, seed=0).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"name": "digit_cnn"}, ["model.name", "digits_cnn"]),
        ({"name": "digits_cnn", "widht": 0.5}, ["model.widht", "did you mean 'width'"]),
        ({"name": "digits_cnn", "norm": "group"}, ["model.norm", "width"]),
        ({"name": "digits_cnn", "width": 0.0}, ["model.width", "above 0"]),
        ({"name": "mobilenet_v3_large", "width": -1.0}, ["model.width", "above 0"]),
        ({"name": "resnet18_cifar", "norm": "gruop"}, ["model.norm", "did you mean 'group'"]),
        (
            {"name": "flare_cifar", "input_shape": (1, 8, 8)},
            ["model.name", "data", "flare_cifar", "(1, 8, 8)"],
        ),
        ({"name": "vgg9", "input_shape": (3, 31, 31)}, ["model.name", "data", "vgg9"]),
        ({"name": "resnet18", "input_shape": (1, 28, 28)}, ["model.name", "data", "resnet18", "3 channels"]),
        ({"name": "digits_cnn", "input_shape": (8, 8)}, ["input_shape", "(8, 8)"]),
        ({"name": "digits_cnn", "num_classes": 0}, ["num_classes", "at least 1"]),
    ],
)
def test_refusals_name_the_key_and_the_rule(request_: dict, words: list[str]) -> None:
    request = {"num_classes": 10, "input_shape": (1, 8, 8), "seed": 0, **request_}
    with pytest.raises(ConfigError) as caught:
        build_model(**request)
    for word in words:
        assert word in str(caught.value)


def test_descriptions_are_single_full_lines() -> None:
    for name, architecture in MODELS.items():
        assert architecture.description.endswith("."), name
    assert MODELS["vgg9"].description.startswith("VGG-9 without normalisation")


@pytest.mark.slow
def test_importing_the_table_leaves_torchvision_unimported() -> None:
    code = "import sys, raysim.models; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
