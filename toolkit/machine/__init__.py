"""Hardware of this machine. Importing this package loads neither torch nor numpy."""
