"""Speed of single kernels on this machine's GPU. Importing this package has no side effects."""
