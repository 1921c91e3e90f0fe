"""The yardstick: the same clients' local SGD steps in a plain PyTorch loop, one process, no simulator."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from raysim.engine.host import ClientHost, HostSetup


class BareLoop:
    """A plain loop over clients with torch.nn and torch.optim, as one would write it in an afternoon.

    Client data are tensors in memory before the clock starts. Each client loads the global state, takes the
    recipe's SGD steps in a fixed order, and its resulting state is kept.
    """

    def __init__(self, plan: HostSetup, host: ClientHost, clients: np.ndarray) -> None:
        self.recipe = plan.recipe
        self.model: nn.Module = plan.factory.build()
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.data = [
            (torch.from_numpy(own.images), torch.from_numpy(own.labels)) for own in map(host.data_of, clients)
        ]

    def round(self) -> list[dict[str, torch.Tensor]]:
        """One round of local training; the clients' states."""
        states = []
        for images, labels in self.data:
            self.model.load_state_dict(self.start)
            self.model.train()
            optimizer = torch.optim.SGD(
                self.model.parameters(), self.recipe.learning_rate, self.recipe.momentum
            )
            for _ in range(self.recipe.epochs):
                order = torch.randperm(len(labels))
                for first in range(0, len(labels), self.recipe.batch_size):
                    batch = order[first : first + self.recipe.batch_size]
                    optimizer.zero_grad()
                    functional.cross_entropy(self.model(images[batch]), labels[batch]).backward()
                    optimizer.step()
            states.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return states
