"""Small networks in torch, with the blocks that real ones are made of."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu


def encoder(*, batch_first: bool, norm_first: bool) -> nn.Module:
    """PyTorch's own transformer encoder."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class FusedAttention(nn.Module):
    """A layer whose queries, keys and values come from one weight and are taken apart by a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.mixed(self.norm(x)).transpose(1, 2).reshape(x.shape))
        return x + self.down(gelu(self.up(x)))

    def mixed(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1) @ v


class ChunkedAttention(FusedAttention):
    """The same, taken apart by columns."""

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = (part.view(*x.shape[:2], 4, 8).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return scaled_dot_product_attention(q, k, v)


class GatedPerceptron(nn.Module):
    """Gate and up in one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(32, 128), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return x + self.down(silu(gate) * up)


class InvertedResidual(nn.Module):
    """MobileNet's block: wide channels each by themselves between two products, weighed by what they all say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.widen = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6())
        self.each = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.BatchNorm2d(wide), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.ReLU())
        self.weigh = nn.Sequential(nn.Conv2d(8, wide, 1), nn.Hardsigmoid())
        self.narrow = nn.Sequential(nn.Conv2d(wide, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = self.each(self.widen(x))
        return x + self.narrow(wide * self.weigh(self.squeeze(wide)))


class SkipNetwork(nn.Module):
    """Channels put side by side: a split half, a whole half, and a convolution that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 20, 3), nn.Conv2d(35, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.left(x).relu(), x[:, :, 1:-1, 1:-1], self.right(x).relu()], 1))


def convolutional() -> nn.Module:
    """Strides, groups, norms of all kinds, up-sampling, a transposed convolution and a classifier."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        InvertedResidual(16),
        *(nn.Conv2d(16, 32, 3, groups=4, padding=1), nn.GroupNorm(8, 32), nn.SiLU(), nn.Upsample(scale_factor=2)),
        *(nn.ConvTranspose2d(32, 24, 2, stride=2), nn.InstanceNorm2d(24, affine=True), nn.Conv2d(24, 32, 3)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


NETWORKS = {
    "encoder": (lambda: encoder(batch_first=True, norm_first=False), (2, 5, 32)),
    "encoder, sequence first": (lambda: encoder(batch_first=False, norm_first=False), (5, 2, 32)),
    "encoder, norm first": (lambda: encoder(batch_first=True, norm_first=True), (2, 5, 32)),
    "fused attention": (FusedAttention, (2, 5, 32)),
    "chunked attention": (ChunkedAttention, (2, 5, 32)),
    "gated perceptron": (GatedPerceptron, (2, 5, 32)),
    "convolutional": (convolutional, (2, 3, 32, 32)),
    "skip network": (SkipNetwork, (2, 3, 12, 12)),
}
"""By name: how it is made, and the shape of its input."""
