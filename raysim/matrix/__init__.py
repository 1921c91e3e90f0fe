"""The matrix of one round's updates: K clients x d columns in tiles."""
