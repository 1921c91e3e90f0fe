"""The same work by other packages, in this process: ByzFL's rules and pytorch-grad-cam.

They are optional (`pip install raysim-fl[peers]`). Each runs with as many threads as there are workers on the other side.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from raysim.backends.base import ThreadLimit
from raysim.errors import ConfigError
from raysim.studies.timing import seconds

if TYPE_CHECKING:
    import torch
    from torch import nn

RULES = ("krum", "trimmed_mean", "median", "rfa")
"""ByzFL's rules by our names."""


def peer_package(name: str) -> Any:
    """An optional package; ConfigError if it is not installed."""
    from raysim.models.torchvision_compat import import_torchvision

    try:
        import_torchvision()  # both import it
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError("peers", f"need the package {name} ({error})", True, False) from error


def byzfl_rules(clients: int, iterations: int) -> dict[str, Callable[[object], object]]:
    """ByzFL's RULES with the parameters of our defaults for K clients.

    krum: f = floor((K - 3) / 2); trimmed_mean: a fifth on each side; rfa: geometric median with as many iterations.
    """
    package = peer_package("byzfl.aggregators.aggregators")
    rules = (
        package.Krum(f=max((clients - 3) // 2, 0)),
        package.TrMean(f=clients // 5),
        package.Median(),
        package.GeometricMedian(T=iterations),
    )
    return dict(zip(RULES, rules, strict=True))


def rows_of_rule(
    name: str, matrix: np.ndarray, repeats: int, threads: int, iterations: int
) -> list[dict[str, object]]:
    """One rule on the matrix [K, d] in this process, after one warm-up, as numpy array and as torch tensor."""
    import torch

    rule, rows = byzfl_rules(len(matrix), iterations)[name], []
    with ThreadLimit(threads)():
        for arrays, given in (("numpy", matrix), ("torch", torch.from_numpy(matrix))):
            rule(given)
            for repeat in range(repeats):
                gc.collect()
                rows.append({"arrays": arrays, "repeat": repeat, "wall_s": seconds(rule, given)})
    return rows


@contextmanager
def learning(model: nn.Module) -> Iterator[None]:
    """The model as its owner has it, with gradients to its parameters: pytorch-grad-cam's own call needs them."""
    model.requires_grad_(True)
    try:
        yield
    finally:
        model.zero_grad()
        model.requires_grad_(False)


def grad_cam_map(model: nn.Module, layer: str, image: torch.Tensor, target: int, method: str) -> np.ndarray:
    """One model's map [H, W] by pytorch-grad-cam, as its documentation has it."""
    package = peer_package("pytorch_grad_cam")
    chosen = {"gradcam": package.GradCAM, "layercam": package.LayerCAM}[method]
    classes = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    with chosen(model, [model.get_submodule(layer)]) as cam:
        maps: np.ndarray = cam(image, [classes.ClassifierOutputTarget(target)])
    heat_map: np.ndarray = maps[0]
    return heat_map
