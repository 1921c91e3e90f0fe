"""What a defense declares it `needs` is what its rounds use, option by option, and what is refused before a start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

from defenses import DEFENSES
from raysim.backends.base import InProcessBackend
from raysim.context import Context, ServerData, Setting
from raysim.defense import Defense, Verdict, chain, check_setting
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.models.recipe import ModelRecipe
from raysim.options import members, option_annotations
from raysim.requirement import Requirement as R
from tests.contract.test_contract_defenses import CLIENTS, EARLY, FACTORY, SMALLER, random_rows, server_data

BY_STAGE: Mapping[str, set[R]] = {
    "gram": {R.GRAM},
    "standardised_gram": {R.GRAM},
    "order_statistics": {R.ORDER_STATISTICS},
    "autoencoder": {R.AUTOENCODER},
    "fit_vae": {R.AUTOENCODER},
    "fit_dagmm": {R.AUTOENCODER},
    "server_update": {R.SERVER_TRAINING},
    "pretrain": {R.SERVER_TRAINING},
    "inference": {R.INFERENCE},
    "validate": {R.INFERENCE},
    "plr": {R.INFERENCE, R.REPRESENTATIONS},
    "cam": {R.INFERENCE, R.CLASS_ACTIVATION},
}
"""Timed stage of a defense -> what it uses."""
OTHERS = {
    "bandwidth", "bulyan", "clip", "closeness", "cluster", "combine", "cosine", "cosines", "counts", "dct", "draw", "energies", "energy",
    "foolsgold", "forest", "gap_statistic", "gradients", "head", "history", "joint_two_means", "keep", "krum", "lbfgs",
    "distances", "leave_one_out", "mix", "mmd", "neighbours", "noise", "norms", "one_class_svm", "predict", "probe", "reconstruct",
    "scores", "sign_vote", "signs", "similarity", "sketch", "sketch_codes", "soft", "spectrum", "subsets",
    "surrogates", "trust", "two_means", "vote", "weights", "weiszfeld",
}  # fmt: skip
"""Stages that use nothing worth declaring. A stage in neither is an error: say there what it uses."""
BESIDE: Mapping[tuple[str, str], dict[str, Any]] = {("pdrr", "count_unmoved"): {"rule": "median"}}
"""Options of a defense that are refused beside the defaults -> what they go with."""


@dataclass(frozen=True)
class WatchedRecipe(ModelRecipe):
    """Writes down that somebody asked for the last layer."""

    seen: Any = None

    @property
    def head(self) -> str:
        self.seen.add(R.LAST_LAYER)
        return super().head


@dataclass(frozen=True)
class WatchedContext(Context):
    """Writes down that somebody asked for the server's data."""

    seen: Any = None

    def __getattribute__(self, name: str) -> Any:
        if name == "server_data":
            object.__getattribute__(self, "seen").add(R.SERVER_DATA)
        return super().__getattribute__(name)


pytestmark = pytest.mark.usefixtures("one_thread")


def variants(name: str) -> Iterator[Defense]:
    """The defense by default, and with every other choice of one option."""
    cls, small = DEFENSES[name], {**SMALLER.get(name, {}), **EARLY.get(name, {})}
    yield cls(**small)
    for option, annotation in option_annotations(cls).items():
        for part in members(annotation):
            choices = get_args(part) if get_origin(part) is Literal else (True, False) if part is bool else ()
            for choice in choices:
                yield cls(**{**small, **BESIDE.get((name, option), {}), option: choice})
    if "pretrain_epochs" in option_annotations(cls):
        yield cls(**{**small, "pretrain_epochs": 1})


def used(
    defense: Defense,
    *,
    factory: ModelRecipe | None = FACTORY,
    data: ServerData | None = None,
    rounds: int = 1,
) -> set[R]:
    """What the defense's rounds use."""
    seen: set[R] = set()
    watched = factory and WatchedRecipe(**vars(factory), seen=seen)
    network = FACTORY.build()
    layout = Layout.of(network) if factory else Layout.flat(random_rows().shape[1])
    vector = Layout.of(network).vector(network)
    state = None
    for round in range(rounds):
        backend = InProcessBackend()
        updates = Updates.from_array(random_rows(seed=round), backend, layout=layout)
        ctx = WatchedContext(
            backend, 3, "defense", round, 6, layout, backend.put(vector), vector, watched, data,
            truth=updates.client_ids[-1:] if defense.calibration else None, seen=seen,
        )  # fmt: skip
        if state is None:
            defense.initial_model(ctx)
            state = defense.init(ctx)
        verdict, state = defense.apply(state, updates, ctx)
        assert np.isfinite(verdict.aggregate).all()
        for span in backend.telemetry.drain():
            assert span.stage in OTHERS or span.stage in BY_STAGE, f"say above what {span.stage} uses"
            seen |= BY_STAGE.get(span.stage, set())
    return seen


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_what_is_declared_is_what_is_used(name: str) -> None:
    everything: set[R] = set()
    for number, defense in enumerate(variants(name)):
        found = used(defense, data=server_data(), rounds=1 if number else 3)
        assert found == defense.needed(), defense
        everything |= found
    assert everything == DEFENSES[name].needs


@pytest.mark.parametrize(
    "name", sorted(name for name, cls in DEFENSES.items() if R.SERVER_DATA not in cls.needs)
)
def test_without_server_data_where_none_is_declared(name: str) -> None:
    used(DEFENSES[name](**SMALLER.get(name, {})))


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_without_a_model_where_none_of_its_parts_is_declared(name: str) -> None:
    defense = DEFENSES[name](**SMALLER.get(name, {}))
    if defense.needed() <= {R.GRAM, R.ORDER_STATISTICS}:
        used(defense, factory=None)
        return
    with pytest.raises(ConfigError):
        used(defense, factory=None, data=server_data())


def setting(**lacks: Any) -> Setting:
    whole = {"server_samples": 20, "input_shape": (1, 8, 8), "cam_layer": "features", "head": "head"}
    return Setting(CLIENTS, CLIENTS, 2, 5, 10, **{**whole, **lacks})


LACKS = {
    R.SERVER_DATA: ({"server_samples": 0}, "server_data.samples: must be at least"),
    R.SERVER_TRAINING: ({"server_samples": 0}, "server_data.samples: must be at least"),
    R.CLASS_ACTIVATION: ({"cam_layer": ""}, "looks at activation maps, and the model has no convolution"),
    R.LAST_LAYER: ({"head": ""}, "looks at the last linear layer, and the model has none"),
    R.REPRESENTATIONS: ({"head": ""}, "looks at the last linear layer, and the model has none"),
}


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_what_an_experiment_lacks_is_refused_where_it_is_declared_and_nowhere_else(name: str) -> None:
    for defense in variants(name):
        check_setting(defense, setting())
        for requirement, (lacks, reason) in LACKS.items():
            if requirement in defense.needed():
                with pytest.raises(ConfigError, match=reason):
                    check_setting(defense, setting(**lacks))
        if defense.needed().isdisjoint(LACKS):
            check_setting(defense, setting(server_samples=0, cam_layer="", head=""))


def test_a_chain_needs_what_its_steps_need_and_names_the_step() -> None:
    both = chain(DEFENSES["gradcam_ae"](), DEFENSES["median"]())
    assert both.needed() == DEFENSES["gradcam_ae"].needs | {R.ORDER_STATISTICS}
    with pytest.raises(ConfigError, match="GradCAMAE looks at activation maps"):
        check_setting(both, setting(cam_layer=""))


@dataclass(frozen=True)
class Mine(Defense):
    """A user's: declares the server's data."""

    needs = frozenset({R.SERVER_DATA})

    def apply(self, state, updates, ctx):
        return Verdict(updates.combine(updates.shares)), state


def test_a_users_declaration_is_checked_before_the_start(tiny: dict[str, Any], tmp_path) -> None:
    import raysim

    config = {**tiny, "rounds": 1, "server_data": {"samples": 0}}
    with pytest.raises(ConfigError, match=r"server_data\.samples: .* Mine looks at the server's data"):
        raysim.run(config, defense=Mine(), name="run", out=tmp_path, backend="inprocess")
    assert not (tmp_path / "run").exists()
