"""Two networks of familiar sizes, in plain torch, for `bench_gpu.py`: its models' folders get a copy of this file.

`Residual` has the layers of a ResNet-50 (25.6 million weights), `Encoder` those of a BERT-base (110 million). Weights
are random: what is measured does not depend on them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """Three convolutions around which the input goes, too."""

    def __init__(self, taken: int, inner: int, stride: int) -> None:
        super().__init__()
        given = inner * 4
        self.path = nn.Sequential(
            nn.Conv2d(taken, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, given, 1, bias=False), nn.BatchNorm2d(given),
        )  # fmt: skip
        same = taken == given and stride == 1
        self.around = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(taken, given, 1, stride, bias=False), nn.BatchNorm2d(given)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both ways."""
        return functional.relu(self.path(x) + self.around(x))


class Residual(nn.Module):
    """Classifies images of bytes, [rows, 3, height, width]."""

    def __init__(self, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        taken = width
        for stage, depth in enumerate(depths):
            for block in range(depth):
                inner = width * 2**stage
                layers.append(Bottleneck(taken, inner, 2 if stage and not block else 1))
                taken = inner * 4
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(taken, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scale the bytes, then classify."""
        scaled = image.to(self.head.weight.dtype) / 127.5 - 1
        scores: torch.Tensor = self.head(self.body(scaled))
        return scores


class Block(nn.Module):
    """Attention, then two linear layers, each with a way around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over all tokens."""
        rows, length, width = x.shape
        parts = self.mixed(x).view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = self.first(x + self.joined(seen.transpose(1, 2).reshape(rows, length, width)))
        result: torch.Tensor = self.second(x + self.inner(x))
        return result


class Encoder(nn.Module):
    """Gives each text of token numbers, [rows, length], one vector."""

    def __init__(
        self, layers: int = 12, width: int = 768, heads: int = 12, words: int = 30522, length: int = 512
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.pooled = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode, and take the first token's vector."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        encoded = self.blocks(self.norm(self.words(tokens) + self.places(places)))
        return torch.tanh(self.pooled(encoded[:, 0]))
