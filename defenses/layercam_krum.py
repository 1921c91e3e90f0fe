"""LayerCAM-Krum: the baseline that LayerCAM-AE (Zheng et al.) is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.cam_krum import CAMKrum
from defenses.class_activation import Method


@dataclass(frozen=True)
class LayerCAMKrum(CAMKrum):
    """The single model whose LayerCAM heat map has the smallest summed squared distance to its nearest maps.

    Krum (see the defense `krum`) on the clients' maps of one server image, flattened to n pixels, instead of on
    their d parameters; O(K passes + K^2 n). The winner's model becomes the global one. The f highest scores are flagged,
    as the paper's equal recall and precision imply. A round that is left with fewer rows than planned assumes at most
    K - 3.

    Colluders with equal maps, all zero for instance, are 0 apart: c of them win as soon as c - 1 >= K - f - 2.
    """

    paper = "Zheng et al., arXiv 2406.02605, 2024"
    method: ClassVar[Method] = "layercam"
