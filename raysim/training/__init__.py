"""Local training: one client, a stack of small clients, the optimizer on flat vectors."""

from raysim._moved import moved_names

__getattr__ = moved_names("raysim.training")
