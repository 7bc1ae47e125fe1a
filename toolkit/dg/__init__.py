"""Domain generalisation: data sets of domains, what is trained on them, how, and which state is kept."""
