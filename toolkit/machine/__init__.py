"""What this machine is. Importing this package loads neither torch nor numpy."""
