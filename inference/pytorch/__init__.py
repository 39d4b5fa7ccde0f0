"""What the PyTorch runtime is made of. All but `options` and `trials` import torch at once."""
