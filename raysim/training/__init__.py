"""Local training: one client, a stack of small clients, the optimizer on flat vectors."""
