"""How nodes come up, behind one interface, and templates for the systems that bring them up themselves."""

from cluster.clusters import KINDS, Cluster, bring_up

__all__ = ["KINDS", "Cluster", "bring_up"]
