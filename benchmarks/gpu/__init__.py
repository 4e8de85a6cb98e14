"""The benchmark of the Triton kernels on a GPU."""
