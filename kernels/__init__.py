"""Attention for heads of any number and any width. Imports torch only, and triton where a kernel is run or compiled."""
