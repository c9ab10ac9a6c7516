"""Plain PyTorch, in the style of the official transfer-learning tutorial."""

import contextlib

import torch
from task import BATCH, CORES, IMAGE_SIZE, RESIZED, read_args, report
from torch import nn, optim
from torchvision import datasets, models, transforms

args = read_args()
torch.manual_seed(args.seed)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

normalize = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
centre = [transforms.Resize(RESIZED), transforms.CenterCrop(IMAGE_SIZE)]
random = [transforms.RandomResizedCrop(IMAGE_SIZE), transforms.RandomHorizontalFlip()]
data_transforms = {
    "train": transforms.Compose([*(random if args.task.augment else centre), *normalize]),
    "val": transforms.Compose([*centre, *normalize]),
}
image_datasets = {split: datasets.ImageFolder(args.data / split, data_transforms[split]) for split in data_transforms}
dataloaders = {
    split: torch.utils.data.DataLoader(
        image_datasets[split],
        batch_size=BATCH,
        shuffle=split == "train",
        drop_last=split == "train",  # not the tutorial's: everybody takes the same number of steps
        num_workers=min(4, CORES),  # the tutorial's 4, or what torch advises where there are fewer cores
    )
    for split in data_transforms
}
criterion = nn.CrossEntropyLoss()


def autocast():
    return torch.autocast(device.type, torch.bfloat16) if args.fast else contextlib.nullcontext()


def train_model(model, optimizer, epochs):
    steps, accuracy = 0, 0.0
    best, best_path = 0.0, args.output / "best_model_params.pt"
    for epoch in range(epochs):
        print(f"Epoch {epoch}/{epochs - 1}")
        for split in ("train", "val"):
            model.train(split == "train")
            running_loss, running_corrects, seen = 0.0, 0, 0
            for inputs, labels in dataloaders[split]:
                inputs, labels = inputs.to(device), labels.to(device)
                if args.fast:
                    inputs = inputs.to(memory_format=torch.channels_last)
                optimizer.zero_grad()
                with torch.set_grad_enabled(split == "train"):
                    with autocast():
                        outputs = model(inputs)
                        loss = criterion(outputs, labels)
                    _, preds = torch.max(outputs, 1)
                    if split == "train":
                        loss.backward()
                        optimizer.step()
                        steps += 1
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(preds == labels.data).item()
                seen += inputs.size(0)
            accuracy = running_corrects / seen
            print(f"{split} Loss: {running_loss / seen:.4f} Acc: {accuracy:.4f}", flush=True)
        if accuracy > best:
            best = accuracy
            torch.save(model.state_dict(), best_path)
    return accuracy, steps


model = models.resnet18()
model.fc = nn.Linear(model.fc.in_features, len(image_datasets["train"].classes))
model.load_state_dict(torch.load(args.weights))
model = model.to(device)
if args.fast:
    model = model.to(memory_format=torch.channels_last)

steps = 0
for trains, epochs in args.task.phases:
    for parameter in model.parameters():
        parameter.requires_grad = trains == "all"
    for part in {"all": [], "layer4": [model.layer4, model.fc], "head": [model.fc]}[trains]:
        for parameter in part.parameters():
            parameter.requires_grad = True
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    algorithm = {"sgd": optim.SGD, "rmsprop": optim.RMSprop}[args.optimizer]
    accuracy, taken = train_model(model, algorithm(parameters, lr=args.lr, momentum=args.momentum), epochs)
    steps += taken
report(args, accuracy=accuracy, steps=steps)
