"""Make a vision transformer structurally smaller, ship it, and prove that it is faster and still right."""

__version__ = "0.1.0"
