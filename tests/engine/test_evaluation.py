"""Where the global model of a round goes: published once, evaluated where it lies, and sent on for the next round."""

from __future__ import annotations

from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.simulation import initial_state, rounds, start


class Watched(InProcessBackend):
    """Keeps a diary of what is done with published models, told by their number, and says that all lie on node `here`."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts = 3
        self.models: list[object] = []
        self.diary: list[object] = []

    def put(self, value):
        held = super().put(value)
        self.models.append(held)
        return held

    def number(self, held):
        return next(number for number, other in enumerate(self.models) if other is held)

    def homes(self, references):
        return ["here"] * len(references)

    def broadcast(self, published):
        self.diary.append(("broadcast", self.number(published)))

    def call_clients(self, stage, method, items, **options):
        models = {self.number(item[2] if method == "train" else item[0]) for item in items}
        self.diary.append((stage, *models, *options.get("near", ())))
        return super().call_clients(stage, method, items, **options)


def test_a_model_is_published_once_and_evaluated_where_it_lies(tiny):
    """Three rounds, evaluated after the second and the last, each in three parts; the last model goes no further."""
    values = {**tiny, "attack": None, "defense": "fedavg", "evaluation": {"every": 2, "batch_size": 1}}
    experiment, backend = compose(ExperimentConfig.from_mapping(values)), Watched()
    start(experiment, backend)
    state = initial_state(experiment, backend)
    backend.models.clear()
    backend.put = lambda value: Watched.put(backend, value) if value.shape == state.global_vector.shape else (
        InProcessBackend.put(backend, value)
    )  # fmt: skip
    list(rounds(experiment, backend, state))
    three = ["here"] * 3
    assert backend.diary == [
        ("train", 0), ("broadcast", 1),
        ("train", 1), ("broadcast", 2), ("evaluate", 2, *three),
        ("train", 2), ("evaluate", 3, *three),
    ]  # fmt: skip
