"""Attention for heads of any number and width. Imports torch, and triton only to run or compile a kernel."""
