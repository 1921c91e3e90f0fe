"""What the experiments of GCAMA and LayerCAM-AE share: tasks, attacks, training and defenses at both scales.

Networks start from random values. The published scripts start from torchvision's ImageNet weights, of which the papers say
nothing: `model.weights=FILE model.fresh=[fc]`, where a user has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raysim.presets.preset import Config, Scale

DETECTION = ("recall", "precision", "fpr", "acc", "f1", "auc_hard")
VOTE = 3
"""The published code measures the defenses that vote in the rounds of a vote only: every third."""

ATTACKS: Mapping[str, Config] = {
    "noise": {"name": "noise"},
    "gae": {"name": "gae"},
    "gae_code": {"name": "gae_code"},
}
"""The published scripts add noise; the text of LayerCAM-AE means the graph autoencoder attack, whose published code is
another method."""

RAW: Config = {"normalise": "none"}
"""Heat maps as the papers' equations give them: the groups `..._raw`; all others scale them, as the code does."""


@dataclass(frozen=True)
class CamTask:
    """A data set at both scales; the batch size and, as in the published code, the augmentation at paper scale.

    augmentation: keys of `training`.
    """

    paper: Config
    small: Config
    batch_size: int = 64
    beta: float = 1.0
    augmentation: Config = field(default_factory=dict)


DIGITS: Config = {"name": "digits", "limit": 960}
CLOTHES: Config = {"name": "fashion_mnist", "limit": 768}
CROP_FLIP: Config = {"augmentation": "crop_flip"}
TASKS: Mapping[str, CamTask] = {
    "svhn": CamTask({"name": "svhn"}, DIGITS, augmentation={"augmentation": "crop", "crop_padding": 2}),
    "cifar10": CamTask({"name": "cifar10"}, CLOTHES, augmentation=CROP_FLIP),
    "cifar100": CamTask({"name": "cifar100"}, CLOTHES, augmentation=CROP_FLIP),
    "gtsrb": CamTask(
        {"name": "gtsrb"}, DIGITS, batch_size=128, beta=1.5, augmentation={"augmentation": "flip"}
    ),
    "tiny_imagenet": CamTask({"name": "tiny_imagenet"}, CLOTHES),
    "celeba": CamTask({"name": "celeba"}, CLOTHES),
}

RESIDUAL = ({"name": "dba_resnet18", "width": 0.125}, 56)
PLAIN = ({"name": "digits_cnn", "width": 0.5}, None)
MODELS: Mapping[str, tuple[Config, int | None]] = {
    "resnet18": RESIDUAL,
    "resnet50": RESIDUAL,
    "mobilenet_v3_large": PLAIN,
    "regnet_y_800mf": PLAIN,
}
"""Network -> the small one in its place, and to what size that one's probe image is enlarged."""


def setting(
    scale: Scale,
    task: str,
    model: str,
    *,
    benign: tuple[int, int],
    malicious: tuple[int, int],
    alpha: float | None,
    epochs: int,
    rounds: tuple[int, int] = (100, 9),
) -> dict[str, object]:
    """Everything but attack and defense. benign, malicious, rounds: at paper and at small scale; alpha None: IID.

    CelebA is split by identity.
    """
    paper = scale == "paper"
    at = 0 if paper else 1
    item = TASKS[task]
    split: dict[str, object] = {"name": "iid"}
    if alpha is not None:
        split = {"name": "dirichlet", "alpha": alpha, "min_samples": 10}
    if task == "celeba" and paper:
        split = {"name": "natural", "subsets": True}
    return {
        "rounds": rounds[at],
        "population": {"clients": benign[at], "malicious": malicious[at], "mode": "append"},
        "data": {**(item.paper if paper else item.small), "partition": split},
        "model": {"name": model} if paper else MODELS[model][0],
        "training": {
            "epochs": epochs if paper else 2,
            "batch_size": item.batch_size if paper else 32,
            "optimizer": {"name": "adam", "lr": 1e-4 if paper else 3e-3},
            **(item.augmentation if paper else {}),
        },
    }


def defense(
    scale: Scale,
    name: str,
    task: str,
    model: str,
    malicious: int,
    beta: float | None = None,
    *,
    raw: bool = False,
) -> dict[str, object]:
    """A defense of these papers. Probe images are enlarged as in the published code, where the small network can.

    raw: with maps that are not scaled, where it looks at maps.
    """
    maps: dict[str, object] = {"probe_size": 224, "map_size": "input"}
    if scale == "small":
        side = MODELS[model][1]
        maps = {"probe_size": side, "map_size": 28} if side else {"map_size": 28}
    if raw:
        maps = {**maps, **RAW}
    voting = {"interval": VOTE, "votes": 2, "beta": TASKS[task].beta if beta is None else beta}
    known: dict[str, dict[str, object]] = {
        "auror": {"name": "auror"},
        "multi_krum": {"name": "multi_krum", "num_byzantine": malicious},
        "faa_dl": {"name": "faa_dl"},
        "cosdefense": {"name": "cosdefense"},
        "gradcam_ae": {"name": "gradcam_ae", **maps, **voting},
        "layercam_ae": {"name": "layercam_ae", **maps, **voting},
        "layercam_krum": {"name": "layercam_krum", **maps, "num_byzantine": malicious},
    }
    return known[name]


def group_name(table: str, attack: str, raw: bool = False) -> str:
    """A table's or figure's name under that attack, and with maps that are not scaled."""
    return table + ("" if attack == "noise" else f"_{attack}") + ("_raw" if raw else "")


def stand_ins(task: str, model: str) -> str:
    """What the small scale puts in place of the data set and the network."""
    small, network = TASKS[task].small["name"], MODELS[model][0]
    return f"{task} -> {small}, {model} -> {network['name']} x {network['width']:g}"


def doubts(reported: Mapping[str, float | None], benign: int, malicious: int) -> dict[str, str]:
    """Where AUC or accuracy do not follow from the recall and false positive rate beside them."""
    recall, fpr = reported.get("recall"), reported.get("fpr")
    if recall is None or fpr is None:
        return {}
    implied = {
        "auc_hard": (recall + 1 - fpr) / 2,
        "acc": (recall * malicious + (1 - fpr) * benign) / (benign + malicious),
    }
    found = {}
    for name, value in implied.items():
        printed = reported.get(name)
        if printed is not None and abs(printed - value) > 0.0025:
            found[name] = f"recall and FPR imply {value:.3f}"
    return found
