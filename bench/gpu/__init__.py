"""What the kernels and pruned models do on a GPU: `python -m toolkit.bench.gpu`, or `make gpu`.

Nothing but torch, triton, timm, numpy, scipy and pytest is needed, and nothing is installed: it runs from the source
tree. Importing this package does nothing.
"""
