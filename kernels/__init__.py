"""Attention for heads of any number and any width. Imports torch only (and triton, where there is a GPU kernel)."""
