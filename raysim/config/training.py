"""The keys of training: what a client does in a round, and what the server makes of the round's aggregate."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raysim.config.group import LARGEST, Group, Whole, named


class OptimizerConfig(Group):
    """The clients' optimizer; its memory starts afresh each round."""

    name: Literal["sgd", "adam", "adamw"] = Field("sgd", description="the rule by which clients step")
    lr: float = Field(0.1, gt=0, description="learning rate of round 0")
    momentum: float = Field(0.0, ge=0, lt=1, description="of SGD; without effect on the others")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty in the gradient; adamw: decoupled")


class TrainingConfig(Group):
    """What a client does in a round, and defenses that train on the server's data.

    Clients do not train with `updates: synthetic`: there these keys are for such defenses alone.
    """

    epochs: Whole = Field(1, ge=1, description="passes over a client's samples in a round")
    batch_size: Whole = Field(32, ge=1, description="samples in a step")
    optimizer: Annotated[OptimizerConfig, BeforeValidator(named)] = OptimizerConfig()
    lr_schedule: Literal["exponential", "step", "cosine"] = Field(
        "exponential",
        description="learning rate of round t: exponential: lr * lr_decay**t; step: lr * lr_decay**(t // lr_period); "
        "cosine: lr * (1 + cos(pi t / lr_period)) / 2",
    )
    lr_decay: float = Field(1.0, gt=0, le=1, description="see lr_schedule; without effect on cosine")
    lr_period: Whole | None = Field(
        None,
        ge=1,
        description="rounds: of step, from one drop to the next; of cosine, until 0, which later rounds do not reach "
        "either: they keep the rate of round lr_period - 1; null: of cosine, all rounds",
    )
    proximal_mu: float = Field(
        0.0,
        ge=0,
        description="FedProx: mu / 2 times the squared distance from the global parameters, in the loss",
    )
    augmentation: Literal["none", "crop", "flip", "crop_flip"] = Field(
        "none",
        description="crop: each image of a batch, padded by crop_padding reflected pixels, is cropped to its size at random; "
        "flip: it is mirrored half of the time",
    )
    crop_padding: Whole | None = Field(
        None, ge=1, description="pixels on each side, see augmentation; null: 4"
    )
    clients_per_stack: Literal["auto"] | Annotated[int, Field(ge=1, le=LARGEST)] = Field(
        "auto",
        description="clients trained together, as one stack of small models; 1: one after another; auto: a rule",
    )

    @model_validator(mode="after")
    def _period(self) -> Self:
        if self.lr_schedule == "step" and self.lr_period is None:
            raise ValueError(
                "must have lr_period, the rounds from one drop to the next, with lr_schedule=step"
            )
        if self.lr_schedule == "exponential" and self.lr_period is not None:
            raise ValueError("must not have lr_period with lr_schedule=exponential, which has none")
        return self

    @model_validator(mode="after")
    def _padding(self) -> Self:
        if self.crop_padding is not None and "crop" not in self.augmentation:
            raise ValueError(
                f"must not have crop_padding with augmentation={self.augmentation}: nothing is cropped"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, values: object) -> object:
        """`cohort_size` is the former name of `clients_per_stack`."""
        if not isinstance(values, dict) or "cohort_size" not in values:
            return values
        if "clients_per_stack" in values:
            raise ValueError("must not have cohort_size, the former name of clients_per_stack, beside it")
        warnings.warn(
            "training.cohort_size is called training.clients_per_stack now", FutureWarning, stacklevel=2
        )
        return {"clients_per_stack" if key == "cohort_size" else key: value for key, value in values.items()}


class ServerConfig(Group):
    """What the server makes of the round's aggregate D, which the defense gives: the step of the global parameters.

    A round without a usable upload moves nothing. Buffers follow the verdict's weights whatever the rule is.
    """

    optimizer: Literal["sgd", "momentum", "adam"] = Field(
        "sgd",
        description="sgd: lr D; momentum: lr v with v = momentum v + D (FedAvgM); adam: lr m / (sqrt(v) + epsilon) with "
        "m = momentum m + (1 - momentum) D, v = beta2 v + (1 - beta2) D^2 from v = epsilon^2 (FedAdam)",
    )
    lr: float = Field(1.0, gt=0, description="the server's learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of momentum and adam (there beta1)")
    beta2: float = Field(0.99, ge=0, lt=1, description="of adam")
    epsilon: float = Field(1e-3, gt=0, description="of adam: its adaptivity (tau)")
    staleness: Literal["polynomial", "constant"] = Field(
        "polynomial",
        description="what an update counts for that began `staleness` global models ago, in asynchronous rounds: polynomial: "
        "(1 + staleness)**-staleness_exponent times itself, before it is judged; constant: as it is",
    )
    staleness_exponent: float = Field(
        0.5, gt=0, description="of polynomial (FedBuff: 0.5); without effect on constant"
    )
    max_staleness: Whole | None = Field(
        None,
        ge=0,
        description="global models that an update may be behind in asynchronous rounds; those further behind are recorded "
        "dropouts, and are not trained; null: any number",
    )
