"""Every attack, by name."""

from __future__ import annotations

from collections.abc import Mapping

from attacks.a3fl import A3FL
from attacks.alie import ALIE
from attacks.alie_optimised import OptimisedALIE
from attacks.constrain_and_scale import ConstrainAndScale
from attacks.dba import DBA
from attacks.edge_case import EdgeCase
from attacks.edge_case_pgd import EdgeCasePGD, EdgeCasePGDReplacement
from attacks.fang_krum import FangKrum
from attacks.fang_median import FangMedian
from attacks.fang_trimmed_mean import FangTrimmedMean
from attacks.flare_adaptive import FlareAdaptive
from attacks.gae import GAE
from attacks.gae_code import GAECode
from attacks.ipm import InnerProductManipulation
from attacks.ipm_optimised import OptimisedIPM
from attacks.krum_backdoor import CoomedBackdoor, KrumBackdoor
from attacks.label_flip import LabelFlip
from attacks.layerwise_poisoning import LayerwisePoisoning
from attacks.mimic import Mimic
from attacks.min_max import MinMax, MinSum
from attacks.neurotoxin import Neurotoxin
from attacks.noise import Noise
from attacks.poisoned_fl import PoisonedFL
from attacks.sign_flip import SignFlip
from attacks.trigger import Trigger
from raysim.attack import Attack

ATTACKS: Mapping[str, type[Attack]] = {
    "noise": Noise,
    "sign_flip": SignFlip,
    "fang_krum": FangKrum,
    "fang_trimmed_mean": FangTrimmedMean,
    "fang_median": FangMedian,
    "alie": ALIE,
    "min_max": MinMax,
    "min_sum": MinSum,
    "ipm": InnerProductManipulation,
    "alie_optimised": OptimisedALIE,
    "ipm_optimised": OptimisedIPM,
    "mimic": Mimic,
    "poisoned_fl": PoisonedFL,
    "gae": GAE,
    "gae_code": GAECode,
    "label_flip": LabelFlip,
    "edge_case": EdgeCase,
    "edge_case_pgd": EdgeCasePGD,
    "edge_case_pgd_replacement": EdgeCasePGDReplacement,
    "trigger": Trigger,
    "neurotoxin": Neurotoxin,
    "layerwise_poisoning": LayerwisePoisoning,
    "a3fl": A3FL,
    "constrain_and_scale": ConstrainAndScale,
    "dba": DBA,
    "krum_backdoor": KrumBackdoor,
    "coomed_backdoor": CoomedBackdoor,
    "flare_adaptive": FlareAdaptive,
}
