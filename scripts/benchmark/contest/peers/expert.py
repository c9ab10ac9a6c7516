"""A script by hand with what an expert knows: the frozen part as inference, its features computed once, bf16."""

import torch
from task import BATCH, CORES, IMAGE_SIZE, RESIZED, read_args, report
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, models
from torchvision.transforms import v2

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Modules that are frozen, of those in `modules_of`, by what trains.
FROZEN = {"head": 10, "layer4": 7, "all": 0}
MEAN = 255 * torch.tensor([0.485, 0.456, 0.406], device=DEVICE).view(3, 1, 1)
STD = 255 * torch.tensor([0.229, 0.224, 0.225], device=DEVICE).view(3, 1, 1)
CENTRE = [v2.Resize(RESIZED), v2.CenterCrop(IMAGE_SIZE)]
RANDOM = [v2.RandomResizedCrop(IMAGE_SIZE), v2.RandomHorizontalFlip()]


def modules_of(weights):
    """ResNet-18 as a list of modules, channels-last."""
    network = models.resnet18()
    network.fc = nn.Linear(network.fc.in_features, 10)
    network.load_state_dict(torch.load(weights))
    network.to(DEVICE, memory_format=torch.channels_last)
    return network, [*list(network.children())[:-1], nn.Flatten(), network.fc]


def image_loader(data, split, *, random, trains=False):
    """Batches of uint8 images; those that train are shuffled and complete, so that all peers take the same steps."""
    images = datasets.ImageFolder(data / split, v2.Compose([*(RANDOM if random else CENTRE), v2.PILToTensor()]))
    # On two cores a loader process takes from the network what it saves.
    return DataLoader(
        images, BATCH, shuffle=trains, drop_last=trains,
        num_workers=0 if CORES <= 2 else min(8, CORES), pin_memory=DEVICE.type == "cuda",
    )  # fmt: skip


def autocast():
    return torch.autocast(DEVICE.type, torch.bfloat16)


def pixels_of(images):
    images = images.to(DEVICE, non_blocking=True).contiguous(memory_format=torch.channels_last)
    return (images - MEAN) / STD


def frozen_features(frozen, loader):
    """What the frozen part gives for each image, computed once, and the labels."""
    with torch.inference_mode(), autocast():
        found = [(frozen(pixels_of(images)), labels) for images, labels in loader]
    features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return features.clone(), labels.to(DEVICE)


def train_phase(args, modules, part, epochs):
    count = FROZEN[part]
    frozen, trained = nn.Sequential(*modules[:count]).eval(), nn.Sequential(*modules[count:])
    fixed = count > 0 and not args.task.augment
    if fixed:
        train = DataLoader(
            TensorDataset(*frozen_features(frozen, image_loader(args.data, "train", random=False))),
            BATCH, shuffle=True, drop_last=True,
        )  # fmt: skip
    else:
        train = image_loader(args.data, "train", random=args.task.augment, trains=True)
    val = image_loader(args.data, "val", random=False)
    if count:
        val = DataLoader(TensorDataset(*frozen_features(frozen, val)), BATCH)
    kind, options = {"sgd": (torch.optim.SGD, {"fused": True}), "rmsprop": (torch.optim.RMSprop, {})}[args.optimizer]
    optimizer = kind(trained.parameters(), lr=args.lr, momentum=args.momentum, **options)
    steps = 0
    for epoch in range(epochs):
        trained.train()
        for inputs, labels in train:
            with autocast():
                if not fixed:
                    with torch.no_grad():
                        inputs = frozen(pixels_of(inputs))
                loss = F.cross_entropy(trained(inputs), labels.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        trained.eval()
        with torch.inference_mode(), autocast():
            right = sum(
                (trained(inputs if count else pixels_of(inputs)).argmax(1) == labels.to(DEVICE)).sum()
                for inputs, labels in val
            )
        accuracy = float(right) / len(val.dataset)
        print(f"{part} {epoch}: loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)
    return accuracy, steps


def main():
    args = read_args()
    torch.manual_seed(args.seed)
    network, modules = modules_of(args.weights)
    done = [train_phase(args, modules, part, epochs) for part, epochs in args.task.phases]
    torch.save(network.state_dict(), args.output / "model.pt")
    report(args, accuracy=done[-1][0], steps=sum(steps for _, steps in done))


if __name__ == "__main__":
    main()
