"""Parts of residual networks over bands and time: stems, shortcuts, blocks and their plan."""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Stride = int | tuple[int, int]


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, stride: Stride = 1) -> nn.Sequential:
    """Return a convolution, batch norm and ReLU; only the stride changes the size of the map."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def shortcut(inputs: int, outputs: int, stride: Stride) -> nn.Module:
    """Return the identity, or a 1 x 1 convolution and batch norm where the block changes the map's shape."""
    if stride in (1, (1, 1)) and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Add a shortcut to two 3 x 3 convolutions, or to a 1 x 1, 3 x 3, 1 x 1 bottleneck 4 times as wide."""

    def __init__(self, inputs: int, width: int, stride: Stride, is_bottleneck: bool = False) -> None:
        super().__init__()
        outputs = 4 * width if is_bottleneck else width
        kernels = (1, 3, 1) if is_bottleneck else (3, 3)
        widths = (inputs, width, width, outputs) if is_bottleneck else (inputs, width, outputs)
        strided = 1 if is_bottleneck else 0
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            layers += conv_norm_relu(widths[i], widths[i + 1], kernel, stride if i == strided else 1)
        self.layers = nn.Sequential(*layers[:-1])  # The last ReLU comes after the shortcut.
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x).add_(self.shortcut(x)), inplace=True)


def plan(
    blocks_per_stage: Sequence[int], width: int, strides: Sequence[int] = (1, 2, 2, 2)
) -> Iterator[tuple[int, int]]:
    """Yield width and stride of each block: stages double the width, and the first block has the stride."""
    for stage, (num_blocks, stride) in enumerate(zip(blocks_per_stage, strides, strict=True)):
        for i in range(num_blocks):
            yield width * 2**stage, stride if i == 0 else 1
