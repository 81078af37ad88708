"""A trained network for photographs in the page: its weights, its kernels, and a check of both."""
