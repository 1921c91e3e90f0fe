"""Devices whose speeds have log-normal distributions, as those of phones roughly do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim import rng
from raysim.fleet.completion import Speeds
from raysim.fleet.contract import Devices
from raysim.options import NotNegative, Positive, PositiveFraction


@dataclass(frozen=True)
class LogNormalDevices(Devices):
    """Speeds are drawn for every client from log-normal distributions; each device is online for a share of every day.

    A device's milliseconds a sample are compute_ms * exp(compute_sigma z), its bandwidths down_kbps * exp(bandwidth_sigma
    w) and up_kbps * exp(bandwidth_sigma w): z and w standard normal, drawn once for each client; a device whose download is
    fast uploads fast, too. The default of compute_ms and its spread are those of FedScale's log-normal completion time (5
    ms * LogNormal(1, 0.6) of training a sample, of which a forward pass is a third). The bandwidths' defaults are round
    numbers of mobile networks, not measured: set those of your setting.

    Every period a device goes online at a moment of its own, drawn once, and stays for `online` of the period.
    """

    compute_ms: Positive = 4.5
    """Median milliseconds of a forward pass of one sample; training takes three times that."""
    compute_sigma: NotNegative = 0.6
    """Standard deviation of their logarithm."""
    down_kbps: Positive = 10_000.0
    """Median kbit/s from the server to a device."""
    up_kbps: Positive = 2_500.0
    """Median kbit/s from a device to the server."""
    bandwidth_sigma: NotNegative = 1.0
    """Standard deviation of the logarithm of both bandwidths."""
    online: PositiveFraction = 1.0
    """Share of the time that a device is online."""
    period_s: Positive = 86_400.0
    """Virtual seconds from one moment that a device goes online to the next."""

    def fleet(self, seed: int) -> LogNormalFleet:
        """The devices of all clients."""
        return LogNormalFleet(self, seed)


@dataclass(frozen=True)
class LogNormalFleet:
    """The devices of all clients, drawn when they are asked for: a population of any size takes no memory."""

    options: LogNormalDevices
    seed: int

    @property
    def always_online(self) -> bool:
        """Whether no device is ever offline."""
        return self.options.online == 1

    def speeds(self, clients: np.ndarray) -> Speeds:
        """How fast the devices of these clients [n] are."""
        drawn = [self._generator("speeds", client).standard_normal(2) for client in clients]
        compute, link = np.array(drawn).reshape(-1, 2).T
        of_link = np.exp(self.options.bandwidth_sigma * link)
        return Speeds(
            compute_ms=self.options.compute_ms * np.exp(self.options.compute_sigma * compute),
            down_kbps=self.options.down_kbps * of_link,
            up_kbps=self.options.up_kbps * of_link,
        )

    def online_until(self, clients: np.ndarray, at_s: float) -> np.ndarray:
        """When each device [n] goes offline: see `Fleet.online_until`."""
        if self.always_online:
            return np.full(len(clients), np.inf)
        period = self.options.period_s
        began = period * np.array([self._generator("online", client).random() for client in clients])
        since = (at_s - began) % period
        return at_s + np.maximum(self.options.online * period - since, 0)

    def _generator(self, what: str, client: int) -> np.random.Generator:
        return rng.generator(self.seed, "device", what, client)
