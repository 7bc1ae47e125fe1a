"""Domain generalisation: datasets of several domains, training objectives, the training loop, model selection."""
