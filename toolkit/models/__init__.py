"""What a prunable model is: how it is built, stored, taken apart, cut and counted."""
