"""The matrix that `raysim bench defenses` judges, on a backend, and the context defenses are given with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim import rng
from raysim.backends.base import Backend
from raysim.context import Context, ServerData
from raysim.engine.synthetic_updates import synthetic_updates
from raysim.matrix.layout import Layout
from raysim.matrix.updates import CHUNK_VALUES, Updates, shard_bounds
from raysim.models.recipe import ModelRecipe

ROUNDS = 1000
"""How many rounds defenses are told there are: more than any window or burn-in."""

SERVER_SAMPLES = 200


@dataclass(frozen=True)
class MatrixSpec:
    """K clients of a network: its layout decides d. malicious of them are planted (see synthetic_updates).

    width: of a network that has one; None for its own. rows_per_block: see synthetic_updates.
    """

    model: str = "leaf_cnn"
    input_shape: tuple[int, int, int] = (1, 28, 28)
    num_classes: int = 62
    clients: int = 50
    malicious: int = 5
    seed: int = 0
    tile_bytes: int = 4 * CHUNK_VALUES
    width: float | None = None
    rows_per_block: int | None = None


@dataclass(frozen=True)
class Matrix:
    """The updates, their truth [K] bool, and the context of round 0."""

    updates: Updates
    truth: np.ndarray
    context: Context
    spec: MatrixSpec

    @property
    def model_bytes(self) -> int:
        """One model: d + b float32."""
        return 4 * self.updates.layout.num_columns


def build_matrix(spec: MatrixSpec, backend: Backend) -> Matrix:
    """Draw the updates where a run's hosts would leave them: by default two row blocks a worker, cut into column
    shards.
    """
    options = {} if spec.width is None else {"width": spec.width}
    recipe = ModelRecipe(
        spec.model, spec.num_classes, spec.input_shape, rng.torch_seed(spec.seed, "model"), options
    )
    network = recipe.build()
    layout = Layout.of(network)
    vector = layout.vector(network)
    bounds = shard_bounds(spec.clients, layout.dim, spec.tile_bytes)
    updates, truth = synthetic_updates(
        backend,
        layout,
        spec.clients,
        seed=spec.seed,
        malicious=spec.malicious,
        bounds=bounds,
        rows_per_block=spec.rows_per_block,
    )
    draw = rng.generator(spec.seed, "bench", "server data")
    images = draw.random((SERVER_SAMPLES, *spec.input_shape), np.float32)
    labels = server_labels(spec.num_classes)
    context = Context(
        backend=backend,
        seed=spec.seed,
        role="defense",
        round=0,
        rounds=ROUNDS,
        layout=layout,
        published=backend.put(vector),
        global_vector=vector,
        factory=recipe,
        server_data=ServerData(images, labels),
    )
    return Matrix(updates, truth, context, spec)


def server_labels(num_classes: int) -> np.ndarray:
    """Labels of the server's samples: the first ten classes in turn."""
    return np.arange(SERVER_SAMPLES) % min(num_classes, 10)
