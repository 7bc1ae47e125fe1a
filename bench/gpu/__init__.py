"""Correctness and speed of the kernels and of pruned models on a GPU: `python -m toolkit.bench.gpu`, or `make gpu`.

Runs from the source tree without installation; requires torch, triton, timm, numpy, scipy and pytest. Importing this
package has no side effects.
"""
