"""ResNet-18 (He et al., CVPR 2016) for small images: a 3x3 first convolution, no pooling before the stages.

Both return pre-softmax class scores and take images of any size, because they average over what is left of it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from raysim.models.layers import NormKind, Shape, Width, norm_layer, scaled, stack

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to their input, [B, c, h, w] -> [B, c', h / stride, w / stride]."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = norm(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = norm(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = stack(
                conv=nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                norm=norm(channels),
            )

    def forward(self, images: Tensor) -> Tensor:
        """The block's output for images, or features, [B, c, h, w]."""
        hidden = self.relu(self.norm1(self.conv1(images)))
        output: Tensor = self.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))
        return output


def dba_resnet18(
    num_classes: int, input_shape: Shape, *, norm: NormKind = "batch", width: Width = 1.0
) -> nn.Module:
    """DBA's CIFAR-10 network: ResNet-18 for small images, stages of 32, 64, 128, 256 channels.

    2,797,610 parameters on colour images with 10 classes (Xie et al., ICLR 2020).
    `norm` is `batch` or `group`.
    """
    return _resnet18([32, 64, 128, 256], num_classes, input_shape, norm, width)


def resnet18_cifar(
    num_classes: int, input_shape: Shape, *, norm: NormKind = "batch", width: Width = 1.0
) -> nn.Module:
    """ResNet-18 for small images, stages of 64, 128, 256, 512 channels.

    11,173,962 parameters on colour images with 10 classes. `norm` is `batch` or `group`.
    """
    return _resnet18([64, 128, 256, 512], num_classes, input_shape, norm, width)


def _resnet18(widths: list[int], num_classes: int, shape: Shape, norm: NormKind, width: Width) -> nn.Module:
    make_norm = norm_layer(norm)
    first, *_, last = widths = scaled(width, *widths)
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(shape[0], first, 3, padding=1, bias=False),
        "norm1": make_norm(first),
        "relu": nn.ReLU(),
    }
    before = first
    for number, channels in enumerate(widths, start=1):
        stride = 1 if number == 1 else 2
        layers[f"layer{number}"] = nn.Sequential(
            BasicBlock(before, channels, stride, make_norm),
            BasicBlock(channels, channels, 1, make_norm),
        )
        before = channels
    return stack(
        **layers,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(last, num_classes),
    )
