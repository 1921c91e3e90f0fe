"""`raysim bench gpu`: what runs on a GPU, beside the same on the CPU, in one process and without Ray."""
