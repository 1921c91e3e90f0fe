"""GCAMA, or GradCAM-AE (Zheng et al.): figures 2 and 3, the accuracy of three defenses.

18 benign devices and 2 attackers, 100 rounds, 20 local epochs of Adam at 1e-4, batches of 64 (GTSRB: 128), Dirichlet
.5. The only number in the text is an accuracy of .8 (CIFAR-10, ResNet-18, GCAMA). The groups `fig2` and `fig3` use
the noise of the published scripts, `fig2_gae` and `fig3_gae` the graph autoencoder attack, `_gae_code` what was published
as its code; those with `_raw` have heat maps that are not scaled to [0, 1].

The published scripts overwrite the autoencoder's verdict by the true attackers: with `defense.name=oracle` a run
measures what they do. They vote every three rounds, as these presets do; the paper does not say so.
"""

from __future__ import annotations

from collections.abc import Iterator

from raysim.presets.cam_setting import ATTACKS, DETECTION, VOTE, defense, group_name, setting, stand_ins
from raysim.presets.preset import Config, Preset, Scale

FIGURES = {"fig2": "resnet18", "fig3": "mobilenet_v3_large"}
DEFENSES = ("gradcam_ae", "multi_krum", "faa_dl")
ACCURACY = {("fig2", "cifar10", "gradcam_ae"): 0.8}


def presets() -> Iterator[Preset]:
    """Both figures, then both again under the other attacks; then GradCAM-AE with maps as the equations give them."""
    for raw, defenses in ((False, DEFENSES), (True, ("gradcam_ae",))):
        for attack in ATTACKS:
            for figure in FIGURES:
                for task in ("cifar10", "gtsrb"):
                    for name in defenses:
                        yield _preset(figure, task, name, attack, raw)


def _preset(figure: str, task: str, name: str, attack: str, raw: bool) -> Preset:
    model = FIGURES[figure]

    def config(scale: Scale) -> Config:
        size = (18, 18)
        return {
            **setting(scale, task, model, benign=size, malicious=(2, 2), alpha=0.5, epochs=20),
            "attack": ATTACKS[attack],
            "defense": defense(scale, name, task, model, 2, raw=raw),
        }

    group = group_name(figure, attack, raw)
    accuracy = ACCURACY.get((figure, task, name))
    return Preset(
        name=f"gcama/{group}-{task}-{name}",
        description=f"GCAMA, {figure}: {attack} against {name}, {model} on non-IID {task}",
        paper=config("paper"),
        small=config("small"),
        metrics=("main_accuracy", *DETECTION),
        reported={} if accuracy is None else {"main_accuracy": accuracy},
        interval=VOTE if name == "gradcam_ae" else 1,
        stand_ins=stand_ins(task, model),
    )
