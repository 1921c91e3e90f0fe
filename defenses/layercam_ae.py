"""LayerCAM-AE (Zheng et al.): heat maps of every client's network, an autoencoder, and a vote over rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.cam_autoencoder import CAMAutoencoder
from defenses.class_activation import Method
from raysim.options import PositiveInt


@dataclass(frozen=True)
class LayerCAMAE(CAMAutoencoder):
    """Flags clients whose LayerCAM heat map an autoencoder reconstructs badly, and votes every few rounds.

    Each round: the LayerCAM map of one server image for every client (options probe, probe_size, target, map_size, normalise:
    see HeatMapDefense); an autoencoder with one layer of `hidden` units, trained from fresh weights on these very
    maps for `epochs` full-batch steps of Adam; its mean error R_i on each map. Suspects are those with
    R_i > mean(R) + beta std(R) + 1e-6, the last so that rounding does not part equal maps (see CAMAutoencoder). In
    rounds t = 1, 2, ... that `interval` divides, malicious are the clients that were suspects in at least `votes` of
    the last `interval` rounds; in the others, the round's suspects. They are dropped, the rest is averaged; all
    dropped: the global model stays. Scores: R. O(K passes + epochs K n hidden) for maps of n pixels.

    Limits. Of c equal outliers among K clients none lies above sqrt((K - c) / c) deviations (times
    sqrt((K - 1) / K) with `sample`): beta = 1 cannot flag 12 attackers among 24. And where honest maps differ as
    much as an attacker's, as in the first rounds from a random model, the autoencoder learns each by heart and R
    says little: so it does, with `normalise=minmax`, where `hidden` is as large as small maps (16 pixels and 128 units
    catch nobody, 4 units do; `none` catches noise with either). A client absent from a round, or rejected before it, abstains from that round's vote.

    Section 4 of the paper is followed as it must be meant. Its eq. 17 sums marks that are 1 for benign, which would
    remove whoever looked benign often: here suspicions are counted. Its eq. 16 does not divide by the accepted
    shares, which would shrink the model: here they are renormalised. Its Algorithm 1 clears the vote buffer each
    round: here it keeps `interval` rounds. "Removed" is read, as in the published code, as left out of that one
    aggregate; permanent=True also bans for good whom a vote finds malicious.

    Where the published code differs (paper, code): error abs, square; std population, sample; probe per_round,
    fixed; target label, argmax; weights data, uniform; the code has probe_size=224 and map_size=input. It also
    zeroes the true attackers' maps in some rounds, which no option here can.
    """

    paper = "Zheng et al., arXiv 2406.02605, 2024"
    method: ClassVar[Method] = "layercam"

    interval: PositiveInt = 3
    """Rounds from one vote to the next, and rounds that a vote looks back."""
    votes: PositiveInt = 2
    """Suspicions within `interval` rounds that make a client malicious, at most interval."""
