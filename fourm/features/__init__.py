"""What the encoder makes of samples: features per token and layer, files of them, and search."""
