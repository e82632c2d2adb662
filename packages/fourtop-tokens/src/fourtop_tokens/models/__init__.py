"""Token embeddings, the transformer, the VQ-VAE; plain keyword arguments."""
