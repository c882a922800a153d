"""Implement a training step in the usual way: Fast ResNet-34, float32, contiguous tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.kernels import NaiveFeatures


class SELayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 8),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 8, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.pool(x).flatten(1))[:, :, None, None]


class SEBasicBlock(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.se = SELayer(channels)
        self.downsample = None
        if stride != 1 or inputs != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        out = self.bn1(self.relu(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out))) + residual
        return self.relu(out)


class NaiveEncoder(nn.Module):
    """Embed (B, T) in [-1, 1) as (B, 512); has the 1,437,078 parameters of the default `ThinResNet34`."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = NaiveFeatures()
        self.conv1 = nn.Conv2d(1, width, 7, (2, 1), 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        layers: list[nn.Module] = []
        inputs = width
        for stage, (count, stride) in enumerate(zip((3, 4, 6, 3), (1, 2, 2, 1), strict=True)):
            for i in range(count):
                layers.append(SEBasicBlock(inputs, width * 2**stage, stride if i == 0 else 1))
                inputs = width * 2**stage
        self.layers = nn.Sequential(*layers)
        self.sap_linear = nn.Linear(inputs, inputs)
        self.attention = nn.Parameter(nn.init.xavier_normal_(torch.empty(inputs, 1)))
        self.fc = nn.Linear(inputs, 512)

    def forward(self, waveforms: Tensor) -> Tensor:
        x = self.features(waveforms).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x)))).mean(2).transpose(1, 2)
        weights = F.softmax(torch.tanh(self.sap_linear(x)) @ self.attention, 1)
        return self.fc((x * weights).sum(1))  # type: ignore[no-any-return]


class NaiveStep:
    """Take a step with SimCLR's loss and Adam; reads the loss at every step."""

    def __init__(self, views: Tensor, temperature: float = 0.03) -> None:
        torch.manual_seed(1)
        self.views = views.float() / 32768  # (B, 2, T)
        self.temperature = temperature
        self.encoder = NaiveEncoder().to(views.device)
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), 1e-3)

    def __call__(self) -> float:
        both = self.encoder(torch.cat([self.views[:, 0], self.views[:, 1]]))
        z = F.normalize(both, dim=1)
        similarity = z @ z.T / self.temperature
        count = len(z)
        similarity = similarity.masked_fill(torch.eye(count, dtype=torch.bool, device=z.device), -1e9)
        loss = F.cross_entropy(similarity, torch.arange(count, device=z.device).roll(count // 2))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
