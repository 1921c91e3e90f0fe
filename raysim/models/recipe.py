"""A picklable recipe for one of the networks in the table: what tasks and hosts are sent instead of a module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from raysim.models import MODELS, build_model


@dataclass(frozen=True)
class ModelRecipe:
    """Builds network `name` for images of `input_shape` (C, H, W); a `raysim.models.factory.ModelFactory`."""

    name: str
    num_classes: int
    input_shape: tuple[int, ...]
    seed: int
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def cam_layer(self) -> str:
        """Path of the module whose output is the activation map."""
        return MODELS[self.name].cam_layer

    @property
    def head(self) -> str:
        """Path of the last linear layer."""
        return MODELS[self.name].head

    def build(self) -> nn.Module:
        """The network with its initial parameters."""
        return build_model(
            self.name,
            num_classes=self.num_classes,
            input_shape=self.input_shape,
            seed=self.seed,
            **self.options,
        )
