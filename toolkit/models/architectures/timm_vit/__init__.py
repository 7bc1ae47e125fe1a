"""timm's ViT, DeiT and BEiT models: names, arguments, weights, errors, and their canonical form."""
