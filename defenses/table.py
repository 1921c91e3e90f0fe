"""The table of defenses."""

from __future__ import annotations

from collections.abc import Mapping

from defenses.alignins import AlignIns
from defenses.auror import AUROR
from defenses.backdoor_indicator import BackdoorIndicator
from defenses.bucketing import Bucketing
from defenses.bulyan import Bulyan
from defenses.centered_clipping import CenteredClipping
from defenses.clip_norm import ClipNorm
from defenses.cosdefense import CosDefense
from defenses.dagmm import DAGMM
from defenses.deepsight import DeepSight
from defenses.dnc import DnC
from defenses.err import ERR
from defenses.faa_dl import FAADL
from defenses.fedavg import FedAvg
from defenses.fedgrad import FedGrad
from defenses.flame import Flame
from defenses.flare import Flare, FlareCode
from defenses.fldetector import FLDetector
from defenses.fltrust import FLTrust
from defenses.foolsgold import FoolsGold
from defenses.freqfed import FreqFed
from defenses.gradcam_ae import GradCAMAE
from defenses.gradcam_krum import GradCAMKrum
from defenses.isolation_forest import IsolationForestFilter
from defenses.krum import Krum
from defenses.layercam_ae import LayerCAMAE
from defenses.layercam_krum import LayerCAMKrum
from defenses.lfr import LFR
from defenses.mda import MDA
from defenses.median import Median
from defenses.multi_krum import MultiKrum
from defenses.nearest_neighbour_mixing import NearestNeighbourMixing
from defenses.norm_clip import NormClip
from defenses.oracle import Oracle
from defenses.pdrr import PDRR
from defenses.rfa import RFA
from defenses.rlr import RLR
from defenses.signguard import SignGuard
from defenses.smea import SMEA
from defenses.trimmed_mean import TrimmedMean
from defenses.vae import VAEDetector
from raysim.defense import Defense

DEFENSES: Mapping[str, type[Defense]] = {
    "fedavg": FedAvg,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "trimmed_mean": TrimmedMean,
    "median": Median,
    "bulyan": Bulyan,
    "rfa": RFA,
    "centered_clipping": CenteredClipping,
    "dnc": DnC,
    "mda": MDA,
    "smea": SMEA,
    "signguard": SignGuard,
    "alignins": AlignIns,
    "freqfed": FreqFed,
    "rlr": RLR,
    "norm_clip": NormClip,
    "foolsgold": FoolsGold,
    "fltrust": FLTrust,
    "flame": Flame,
    "deepsight": DeepSight,
    "auror": AUROR,
    "faa_dl": FAADL,
    "isolation_forest": IsolationForestFilter,
    "cosdefense": CosDefense,
    "vae": VAEDetector,
    "dagmm": DAGMM,
    "err": ERR,
    "lfr": LFR,
    "fldetector": FLDetector,
    "gradcam_ae": GradCAMAE,
    "layercam_ae": LayerCAMAE,
    "gradcam_krum": GradCAMKrum,
    "layercam_krum": LayerCAMKrum,
    "fedgrad": FedGrad,
    "pdrr": PDRR,
    "flare": Flare,
    "flare_code": FlareCode,
    "backdoor_indicator": BackdoorIndicator,
    "oracle": Oracle,
    "clip_norm": ClipNorm,
    "nearest_neighbour_mixing": NearestNeighbourMixing,
    "bucketing": Bucketing,
}
