"""What the PyTorch runtime is made of. These modules import torch at once: import them only when a model needs it."""
