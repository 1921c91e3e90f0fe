"""`raysim bench`: measurements against limits taken in the same run."""

from __future__ import annotations

import typer

from raysim.cli.bench_gpu import gpu
from raysim.cli.study_command import command_of
from raysim.studies.costs.kernels import Kernels
from raysim.studies.costs.study import Attacks, Defenses
from raysim.studies.coverage import Coverage
from raysim.studies.detection import DetectionStudy
from raysim.studies.maps import Maps
from raysim.studies.mmd import MMD
from raysim.studies.population import Population
from raysim.studies.rounds.growth import Growth
from raysim.studies.rounds.study import Rounds
from raysim.studies.scaling.presets import NodesStudy, PairsStudy
from raysim.studies.scaling.study import Scaling
from raysim.studies.similarity import Similarity
from raysim.studies.tasks import Tasks

STUDIES = (
    Scaling(), NodesStudy(), PairsStudy(), Defenses(), Attacks(), Rounds(), Growth(), Population(), DetectionStudy(), Similarity(), MMD(), Coverage(),
    Maps(), Kernels(), Tasks(),
)  # fmt: skip

app = typer.Typer(
    help="Measure raysim against limits taken in the same run on the same machine; ratios travel, seconds do not.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for study in STUDIES:
    app.command(study.name)(command_of(study))
app.command("gpu")(gpu)
