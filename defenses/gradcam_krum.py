"""GradCAM-Krum: Krum on GradCAM heat maps, named beside GCAMA (Zheng et al.)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.cam_krum import CAMKrum
from defenses.class_activation import Method


@dataclass(frozen=True)
class GradCAMKrum(CAMKrum):
    """The single model whose GradCAM heat map has the smallest summed squared distance to its nearest maps.

    As LayerCAMKrum, with one weight a channel instead of one a channel and pixel. The GCAMA paper mentions it in
    one sentence and gives no numbers for it.
    """

    paper = "Zheng et al., ACM TOPS 2025"
    method: ClassVar[Method] = "gradcam"
