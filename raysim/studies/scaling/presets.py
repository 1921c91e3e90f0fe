"""`raysim bench nodes`, `raysim bench pairs`: two questions that `raysim bench scaling` answers, with what they take as defaults."""

from __future__ import annotations

from pydantic import Field

from raysim.options import PositiveInt
from raysim.studies.options import Image, Methods, Numbers
from raysim.studies.scaling.plan import ScalingPlan
from raysim.studies.scaling.study import Scaling


class NodesPlan(ScalingPlan):
    """Defenses that look at rows, at pairs, and at columns in order, on 1, 2 and 4 nodes."""

    defense: Methods = Field(
        ("layercam_ae", "norm_clip", "krum", "median"),
        description="default: rows (layercam_ae, norm_clip), pairs (krum), order statistics (median)",
    )
    clients: Numbers = Field((48,), description="K, with commas between")
    nodes: Numbers = Field((1, 2, 4), description="numbers of nodes, with commas between")
    repeats: PositiveInt = Field(3, description="of every cell; each after a round that warms up")


class NodesStudy(Scaling):
    """What more nodes bring to defenses of three kinds: seconds, bytes moved, idle share. A preset of `raysim bench scaling`.

    \b
    raysim bench nodes
    raysim bench nodes --kind namespaces --bandwidth 1gbit         hosts with links between them; as root
    """

    name = "nodes"
    title = "What more nodes bring"
    plan = NodesPlan


class PairsPlan(ScalingPlan):
    """Methods that compare all pairs of clients, of a small network so that K x K counts, on one node and on two."""

    defense: Methods = Field(
        ("fedgrad", "krum", "flare"), description="default: those whose K x K is largest"
    )
    attack: Methods = Field(("min_max",), description="that compare pairs; default: min_max")
    clients: Numbers = Field((250, 500, 1000, 2000, 4000), description="K, with commas between")
    nodes: Numbers = Field((1, 2), description="numbers of nodes, with commas between")
    repeats: PositiveInt = Field(3, description="of every cell; each after a round that warms up")
    model: str = Field("digits_cnn", description="whose parameters make the d columns")
    image: Image = Field((1, 8, 8), description="size of its images")
    classes: PositiveInt = Field(10, description="its classes")


class PairsStudy(Scaling):
    """How the K x K stages of FedGrad, Krum, FLARE and min-max grow with K, on one node and on two. A preset of `raysim bench
    scaling`.

    \b
    raysim bench pairs
    raysim bench pairs --clients 1000,2000,4000,8000 --nodes 1,2,4
    """

    name = "pairs"
    title = "What pairs cost"
    plan = PairsPlan
