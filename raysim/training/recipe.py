"""How clients train locally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Augmentation = Literal["none", "crop", "flip", "crop_flip"]


@dataclass(frozen=True)
class TrainingRecipe:
    """Local training as the clients do it: for rules that train on server data by the same recipe."""

    epochs: int = 1
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    """FedProx (Li et al., MLSys 2020): mu / 2 times the squared distance from the global parameters, in the loss."""
    augmentation: Augmentation = "none"
    """What is done to each batch of images (raysim.training.augmentation)."""
    crop_padding: int = 4
    """Pixels on each side by which an image is padded before it is cropped."""
