"""What residual networks over bands and time share: stems, shortcuts, and the plan of their blocks."""

from collections.abc import Iterator, Sequence

from torch import nn


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int = 3, stride: int | tuple[int, int] = 1
) -> nn.Sequential:
    """Return a convolution that keeps the map's size but for its stride, batch norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def shortcut(inputs: int, outputs: int, stride: int | tuple[int, int]) -> nn.Module:
    """Return the identity, or a 1 x 1 convolution and batch norm where the block changes the map's shape."""
    if stride in (1, (1, 1)) and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def plan(
    blocks_per_stage: Sequence[int], width: int, strides: Sequence[int] = (1, 2, 2, 2)
) -> Iterator[tuple[int, int]]:
    """Yield width and stride of each block: a stage doubles the width, and its first block has its stride."""
    for stage, (num_blocks, stride) in enumerate(zip(blocks_per_stage, strides, strict=True)):
        for i in range(num_blocks):
            yield width * 2**stage, stride if i == 0 else 1
