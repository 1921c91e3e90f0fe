"""What the studies of costs on one matrix have in common: the matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raysim.options import Count, PositiveInt
from raysim.studies.options import Image
from raysim.studies.study import OnBackend

if TYPE_CHECKING:
    from raysim.studies.matrix import MatrixSpec


class MatrixPlan(OnBackend):
    """K rows of a network's d parameters, drawn, and how often is measured on them."""

    clients: PositiveInt = Field(50, description="K")
    malicious: Count = Field(5, description="how many of them are planted as malicious")
    model: str = Field("leaf_cnn", description="whose parameters make the d columns")
    image: Image = Field((1, 28, 28), description="size of its images")
    classes: PositiveInt = Field(62, description="its classes")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    tile_mib: PositiveInt = Field(64, description="size of K rows in one column shard, in MiB")
    seed: Count = Field(0, description="what the matrix is drawn from")

    @property
    def spec(self) -> MatrixSpec:
        """The matrix."""
        from raysim.studies.matrix import MatrixSpec

        return MatrixSpec(
            self.model,
            self.image,
            self.classes,
            self.clients,
            self.malicious,
            self.seed,
            self.tile_mib * 2**20,
        )
