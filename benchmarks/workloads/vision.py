"""CIFAR-10: a small CNN with BatchNorm, a residual network, a vision transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ..suites.workload import Part
from .data import cifar10
from .supervised import Batch, Batches, Kind, Supervised


def cnn(width: int) -> nn.Module:
    """Three convolutions with BatchNorm, each halving the image, and a linear head."""
    blocks: list[nn.Module] = []
    for i, channels in enumerate((width, 2 * width, 4 * width)):
        before = 3 if i == 0 else channels // 2
        blocks += [nn.Conv2d(before, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, before, h, w) to (n, channels, h / stride, w / stride)."""
        return relu(self.body(x) + self.shortcut(x))


def resnet(width: int, blocks: int) -> nn.Module:
    """A stem that halves the image, and three stages of `blocks` residual blocks."""
    stages: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    ]  # fmt: skip
    before = width
    for i in range(3):
        for j in range(blocks):
            stages.append(Residual(before, width * 2**i, 2 if i and not j else 1))
            before = width * 2**i
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class ViT(nn.Module):
    """A vision transformer with mean pooling (Dosovitskiy et al. 2021).

    Args:
        width: of the residual stream.
        layers: how many.
        heads: a layer.
        patch: pixels of a patch's side.
    """

    def __init__(self, width: int, layers: int, heads: int, patch: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (32 // patch) ** 2, width))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            )
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 3, 32, 32)."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.head(self.layers(tokens).mean(1))
        return out


@dataclass(frozen=True, slots=True)
class Cifar:
    """CIFAR-10 by one of three networks.

    Args:
        model: which.
        kind: of the optimizer.
        rate: see `Workload`.
        steps: see `Workload`.
        width: of the model.
        depth: residual blocks a stage, or layers of the transformer.
        batch: images.
        images: to train on; the test part's first `held_out` × 3 are probe, selection and test.
        held_out: images of each of these.
    """

    model: Literal["cnn", "resnet", "vit"] = "cnn"
    kind: Kind = "sgd"
    rate: float = 0.1
    steps: int = 300
    width: int = 16
    depth: int = 1
    batch: int = 64
    images: int = 5000
    held_out: int = 500

    @property
    def name(self) -> str:
        """`cifar-cnn-sgd`."""
        return f"cifar-{self.model}-{self.kind}"

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        x, y, held_x, held_y = (part.to(device) for part in cifar10(self.images, 3 * self.held_out))
        probe, selection, test = zip(held_x.split(self.held_out), held_y.split(self.held_out), strict=True)
        torch.manual_seed(seed)
        model = (
            cnn(self.width)
            if self.model == "cnn"
            else resnet(self.width, self.depth)
            if self.model == "resnet"
            else ViT(self.width, self.depth, max(1, self.width // 16), 8)
        )
        parts: dict[Part, Batch] = {"probe": probe, "selection": selection, "test": test}
        decay = {"sgd": 5e-4, "adamw": 0.05, "rmsprop": 0.0}[self.kind]
        return Supervised(model.to(device), Batches((x, y), self.batch, seed), parts, self.kind, decay)
