"""How long a client takes on its device, in virtual seconds: FedScale's completion time.

Lai et al., "FedScale: Benchmarking Model and System Performance of Federated Learning at Scale", ICML 2022: computing
takes 3 * batch_size * local_steps * latency, because a backward pass takes about twice as long as a forward pass, whose
latency is known; sending takes (download + upload) / bandwidth.

Variant: FedScale's clients all take the same number of steps, and ours pass over their own samples, so that
batch_size * local_steps is epochs * samples here; download and upload have bandwidths of their own, and a kbit is 1,000
bits (FedScale measures models in 1,024 bits). With one bandwidth and equal samples it is FedScale's number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PASSES = 3.0
"""Seconds of training one sample, in those of one forward pass."""


@dataclass(frozen=True)
class Speeds:
    """How fast n devices are: milliseconds of a forward pass of one sample, kbit/s to the device and from it; [n] each."""

    compute_ms: np.ndarray
    down_kbps: np.ndarray
    up_kbps: np.ndarray


@dataclass(frozen=True)
class Seconds:
    """Virtual seconds that n clients take in one round, one part after the other; [n] each."""

    download: np.ndarray
    compute: np.ndarray
    upload: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """From the moment the server publishes the global model to the arrival of the update [n]."""
        total: np.ndarray = self.download + self.compute + self.upload
        return total


def completion(speeds: Speeds, samples: np.ndarray, model_bytes: int) -> Seconds:
    """The seconds of n clients. samples: trained on in the round, all epochs [n]; model_bytes: of the global model, and as
    many of an update.
    """
    kbits = 8 * model_bytes / 1000
    return Seconds(
        download=kbits / speeds.down_kbps,
        compute=PASSES * samples * speeds.compute_ms / 1000,
        upload=kbits / speeds.up_kbps,
    )
