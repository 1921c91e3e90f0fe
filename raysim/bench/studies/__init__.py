"""Studies of single kernels: similarities, MMD, coverage, class activation maps."""
