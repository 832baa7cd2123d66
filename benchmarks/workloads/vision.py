"""CIFAR-10: a small CNN with BatchNorm, a residual network, a vision transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from ..suites.workload import Part
from .attention import Block
from .data import cifar10
from .supervised import Batch, Batches, OptimizerName, Supervised

SHIFT = 4
"""Pixels that an augmented image is moved at the most."""


def cnn(width: int) -> nn.Module:
    """Three convolutions with BatchNorm, each halving the image, and a linear head."""
    blocks: list[nn.Module] = []
    before = 3
    for channels in (width, 2 * width, 4 * width):
        blocks += [nn.Conv2d(before, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        before = channels
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


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


def resnet(width: int, stages: int, blocks: int, stride: int) -> nn.Module:
    """A stem, and stages of residual blocks, each at twice the width and half the size of the last one.

    Args:
        width: channels of the stem.
        stages: how many; with `width` 64, 4 stages and 2 blocks it is a ResNet-18.
        blocks: a stage.
        stride: of the stem, 1 or even.
    """
    kernel = max(3, stride + 1)
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    ]  # fmt: skip
    before = width
    for i in range(stages):
        for j in range(blocks):
            layers.append(Residual(before, width * 2**i, 2 if i and not j else 1))
            before = width * 2**i
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class ViT(nn.Module):
    """A vision transformer with mean pooling (Dosovitskiy et al. 2021).

    Args:
        width: of the residual stream.
        layers: how many.
        patch: pixels of a patch's side.
        channels: of an image.
        side: of an image, in pixels.
    """

    def __init__(self, width: int, layers: int, patch: int, channels: int = 3, side: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        self.layers = nn.Sequential(*(Block(width, max(2, width // 64), causal=False) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, channels, side, side)."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.head(self.layers(tokens).mean(1))
        return out


@dataclass(frozen=True, slots=True)
class Cifar:
    """CIFAR-10 by one of three networks.

    Args:
        model: which.
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
        width: of the model.
        depth: residual blocks a stage, or layers of the transformer.
        stages: of the residual network.
        reduction: stride of the residual network's stem, or side of the transformer's patches.
        batch: images.
        images: to train on.
        probe: images of the test part to probe.
        held_out: images each of the test part for selection and test.
        augmented: trained on images that are moved and mirrored at random.
        fast: bfloat16 and compiled.
    """

    model: Literal["cnn", "resnet", "vit"] = "cnn"
    optimizer: OptimizerName = "sgd"
    rate: float = 0.1
    steps: int = 400
    target: float = 1.67
    width: int = 8
    depth: int = 1
    stages: int = 3
    reduction: int = 2
    batch: int = 32
    images: int = 4000
    probe: int = 128
    held_out: int = 400
    augmented: bool = False
    fast: bool = False
    needs: str = "cifar10"

    @property
    def name(self) -> str:
        """`cifar-cnn-sgd`."""
        return f"cifar-{self.model}-{self.optimizer}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return self.images // self.batch

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        loaded = cifar10(self.images, self.probe + 2 * self.held_out)
        x, y, *held = (part.to(device) for part in loaded)
        sizes = [self.probe, self.held_out, self.held_out]
        probe, selection, test = zip(*(part.split_with_sizes(sizes) for part in held), strict=True)
        parts: dict[Part, Batch] = {"probe": probe, "selection": selection, "test": test}
        torch.manual_seed(seed)
        model = self._network().to(device)
        batches = Batches((x, y), self.batch, seed, augment if self.augmented else None)
        decay = {"sgd": 5e-4, "adamw": 0.05, "rmsprop": 0.0}[self.optimizer]
        return Supervised(model, batches, parts, self.optimizer, decay, fast=self.fast)

    def _network(self) -> nn.Module:
        if self.model == "cnn":
            return cnn(self.width)
        if self.model == "vit":
            return ViT(self.width, self.depth, self.reduction)
        return resnet(self.width, self.stages, self.depth, self.reduction)


def augment(batch: Batch, generator: torch.Generator) -> Batch:
    """Images (n, 3, h, w) moved by up to 4 pixels in both directions, half of them mirrored."""
    images, labels = batch
    n, _, height, width = images.shape
    across = torch.arange(width) + torch.randint(2 * SHIFT + 1, (n, 1), generator=generator)
    down = torch.arange(height) + torch.randint(2 * SHIFT + 1, (n, 1), generator=generator)
    mirrored = torch.randint(2, (n, 1), generator=generator) == 1
    across = torch.where(mirrored, across.flip(1), across)
    places = torch.arange(n)[:, None, None], down[:, :, None], across[:, None, :]
    padded = pad(images, (SHIFT,) * 4).permute(0, 2, 3, 1)
    moved = padded[tuple(place.to(images.device, non_blocking=True) for place in places)]
    return moved.permute(0, 3, 1, 2), labels
