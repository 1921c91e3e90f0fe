from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.constrain_and_scale import ConstrainAndScale, mix_anomaly
from attacks.trigger import Trigger
from raysim.errors import ConfigError
from tests.attacks.local_attackers import Recorded, client_context, client_data, honest_training, tiny_trainer


@pytest.mark.parametrize("anomaly", ["l2", "cosine"])
def test_mixed_gradient_is_autograds(anomaly: str) -> None:
    trainer = tiny_trainer()
    generator = torch.Generator().manual_seed(1)
    start = trainer.global_vector[: trainer.layout.dim].double()
    trainer.parameters.add_(0.05 * torch.randn(trainer.layout.dim, generator=generator))
    task = torch.randn(trainer.layout.dim, generator=generator)
    trainer.gradient.copy_(task)
    mix_anomaly(0.3, anomaly, trainer)
    w = trainer.parameters.double().clone().requires_grad_()
    loss = (w - start).norm() if anomaly == "l2" else 1 - torch.cosine_similarity(w, start, dim=0)
    loss.backward()
    assert w.grad is not None
    expected = 0.3 * task.double() + 0.7 * w.grad
    np.testing.assert_allclose(trainer.gradient.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("anomaly", ["l2", "cosine"])
def test_at_the_global_model_the_anomaly_has_no_gradient(anomaly: str) -> None:
    trainer = tiny_trainer()
    trainer.gradient.fill_(2.0)
    mix_anomaly(0.5, anomaly, trainer)
    np.testing.assert_allclose(trainer.gradient.numpy(), 1.0, atol=1e-6)


def test_zero_global_model_has_no_cosine() -> None:
    trainer = tiny_trainer()
    trainer.global_vector.zero_()
    trainer.gradient.fill_(2.0)
    mix_anomaly(0.5, "cosine", trainer)
    assert (trainer.gradient == 1).all()


def test_alpha_one_is_the_plain_trigger_attack() -> None:
    ctx = client_context(tiny_trainer())
    data = client_data(24)
    constrained = ConstrainAndScale(alpha=1.0, scale=4.0).train(honest_training(ctx), data, ctx)
    plain = Trigger(scale=4.0).train(honest_training(ctx), data, ctx)
    np.testing.assert_array_equal(constrained, plain)


def test_the_constraint_keeps_the_update_small() -> None:
    ctx = client_context(tiny_trainer())
    data = client_data(24)
    free, held = (
        np.linalg.norm(
            ConstrainAndScale(alpha=alpha, scale=1.0, epochs=10).train(honest_training(ctx), data, ctx)
        )
        for alpha in (1.0, 0.5)
    )
    assert free > 3 * held > 0


def test_scale_defaults_to_replacement() -> None:
    ctx = client_context(tiny_trainer(), cohort_examples=240)
    update = np.ones(ctx.layout.num_columns, np.float32)
    assert (ConstrainAndScale().train(Recorded(update), client_data(24), ctx) == 10).all()
    assert (ConstrainAndScale(scale=100.0).train(Recorded(update), client_data(24), ctx) == 100).all()


def test_train_and_scale_hits_the_bound_and_leaves_zero_alone() -> None:
    ctx = client_context(tiny_trainer())
    update = np.zeros(ctx.layout.num_columns, np.float32)
    attack = ConstrainAndScale(norm_bound=2.0)
    assert not attack.train(Recorded(update), client_data(24), ctx).any()
    update[:2] = (3, 4)
    np.testing.assert_allclose(attack.train(Recorded(update), client_data(24), ctx)[:3], [1.2, 1.6, 0])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"anomaly": "linf"}, "anomaly"),
        ({"norm_bound": -1.0}, "norm_bound"),
        ({"norm_bound": 1.0, "scale": 2.0}, "norm_bound"),
        ({"poisoned_data_rate": 2.0}, "poisoned_data_rate"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ConstrainAndScale(**options)  # type: ignore[arg-type]
    assert caught.value.key == key
