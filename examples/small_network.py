"""A backbone of your own: any module whose classifier is called `fc`."""

from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, 1)  # replaced by the head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, height, width)."""
        logits: Tensor = self.fc(self.pool(self.layer1(self.stem(images))).flatten(1))
        return logits
