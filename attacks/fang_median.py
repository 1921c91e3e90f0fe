"""The local-model-poisoning attack on the coordinate-wise median."""

from __future__ import annotations

from dataclasses import dataclass

from attacks.fang_trimmed_mean import FangTrimmedMean
from raysim.errors import ConfigError


@dataclass(frozen=True)
class FangMedian(FangTrimmedMean):
    """Put each coordinate beyond the benign models' extreme, on the side away from where the median moves.

    fang_trimmed_mean with s (`full`) from the median of all K honest models: the mean of the middle two
    where K is even. num_byzantine has no meaning here and must stay None. Sources as there.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_byzantine is not None:
            raise ConfigError(
                "num_byzantine", "the median assumes no number; leave it out", self.num_byzantine
            )

    def trimmed(self, num_clients: int, num_attackers: int) -> int:
        """All but the middle value, or the middle two."""
        return (num_clients - 1) // 2
