"""The small convolutional networks: handwritten digits, LEAF, the edge-case attack paper and DBA.

All return pre-softmax class scores.
"""

from __future__ import annotations

from torch import nn

from raysim.models.layers import Shape, Width, flat_features, scaled, stack


def digits_cnn(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """Two 3x3 convolutions and a layer of 64, for 8x8 digits.

    13,706 parameters with 10 classes: small enough for any test.
    """
    first, second, hidden = scaled(width, 16, 32, 64)
    features = stack(
        conv1=nn.Conv2d(input_shape[0], first, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(first, second, 3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )
    return stack(
        features=features,
        hidden=nn.Linear(flat_features("digits_cnn", features, input_shape), hidden),
        relu=nn.ReLU(),
        head=nn.Linear(hidden, num_classes),
    )


def leaf_cnn(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """LEAF's FEMNIST network, PDRR's too: two 5x5 convolutions and a layer of 2,048, for 28x28 grey images.

    6,603,710 parameters with 62 classes (Caldas et al., LEAF; PDRR section 5).
    """
    first, second, hidden = scaled(width, 32, 64, 2048)
    features = stack(
        conv1=nn.Conv2d(input_shape[0], first, 5, padding=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(first, second, 5, padding=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )
    return stack(
        features=features,
        hidden=nn.Linear(flat_features("leaf_cnn", features, input_shape), hidden),
        relu=nn.ReLU(),
        head=nn.Linear(hidden, num_classes),
    )


def lenet_wang(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """The "LeNet" of the edge-case attack and FedGrad: two 3x3 convolutions and a layer of 128, with dropout.

    1,199,882 parameters on 28x28 grey images with 10 classes (Wang et al., NeurIPS 2020). It is not LeNet-5.
    """
    first, second, hidden = scaled(width, 32, 64, 128)
    features = stack(
        conv1=nn.Conv2d(input_shape[0], first, 3),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(first, second, 3),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        dropout=nn.Dropout2d(0.25),
        flatten=nn.Flatten(),
    )
    return stack(
        features=features,
        hidden=nn.Linear(flat_features("lenet_wang", features, input_shape), hidden),
        relu=nn.ReLU(),
        dropout=nn.Dropout(0.5),
        head=nn.Linear(hidden, num_classes),
    )


def dba_mnist_cnn(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """DBA's MNIST network: two 5x5 convolutions and a layer of 500, for 28x28 grey images.

    431,080 parameters with 10 classes (Xie et al., ICLR 2020). The published code ends in a log-softmax and
    then takes the cross entropy, which applies it once more to no effect; here it is left to the loss, so that
    the output is the class score that class activation maps differentiate.
    """
    first, second, hidden = scaled(width, 20, 50, 500)
    features = stack(
        conv1=nn.Conv2d(input_shape[0], first, 5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(first, second, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )
    return stack(
        features=features,
        hidden=nn.Linear(flat_features("dba_mnist_cnn", features, input_shape), hidden),
        relu=nn.ReLU(),
        head=nn.Linear(hidden, num_classes),
    )
