"""Image classifiers of transformers: ViT, DeiT, BEiT and DINOv2, their folders, and their canonical form."""
