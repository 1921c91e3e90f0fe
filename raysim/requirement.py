"""What a defense needs beside the updates: the words in which it declares it."""

from __future__ import annotations

from enum import Enum


class Requirement(Enum):
    """Something that a defense works with beside the K updates and their data shares (`Defense.needs`).

    The first five are refused before anything starts where the experiment lacks them; the others say what a round costs.
    """

    SERVER_DATA = "samples that the server holds: server_data.samples"
    LAST_LAYER = "the last linear layer: its updates, or what enters it"
    REPRESENTATIONS = "penultimate-layer representations: what enters the last linear layer"
    CLASS_ACTIVATION = "class-activation maps: images, and a model with a convolution"
    SERVER_TRAINING = "training of the model on the server's data"
    INFERENCE = "forward passes of every client's model, or of an aggregate without each client"
    AUTOENCODER = "an autoencoder, trained on what stands for the clients' models"
    GRAM = "the inner products of all updates [K, K]"
    ORDER_STATISTICS = "the order of the K values of every parameter"

    @property
    def label(self) -> str:
        """The name in small letters: `server data`."""
        return self.name.lower().replace("_", " ")
