"""A run: its directory, its checkpoints, and how it is carried out and resumed."""
