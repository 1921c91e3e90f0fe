"""GradCAM-AE, also GCAMA (Zheng et al.): heat maps of every client's network and an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.cam_autoencoder import CAMAutoencoder
from defenses.class_activation import Method


@dataclass(frozen=True)
class GradCAMAE(CAMAutoencoder):
    """Flags clients whose GradCAM heat map an autoencoder reconstructs badly.

    As LayerCAMAE, with one weight a channel instead of one a channel and pixel, and each round's suspects dropped
    in that round: the paper describes no vote, so interval = votes = 1. Its published code votes with interval=3 and
    votes=2. The paper leaves the factor of its threshold (here beta) open; the code has 1.0, for GTSRB 1.5.

    The published CIFAR-10 and GTSRB scripts overwrite the verdict with the true attackers' indices before they
    aggregate, so they measure a perfect filter. Here the verdict is the autoencoder's alone; the perfect filter is
    the defense `oracle`. Two more habits of published scripts are not followed. The SVHN script has no autoencoder:
    it drops clients whose map's mean cosine similarity to the other maps is more than one standard deviation below
    the mean of all clients. The CIFAR-10 and CIFAR-100 scripts set the true attackers' maps to zero in some rounds.
    """

    paper = "Zheng et al., ACM TOPS 2025"
    method: ClassVar[Method] = "gradcam"
