"""torchvision: a step, meters and evaluation in the style of its reference classification training."""

import contextlib
import time

import torch
from task import BATCH, CLASSES, CORES, IMAGE_SIZE, RESIZED, read_args, report
from torch import nn
from torchvision import datasets, models
from torchvision.transforms import v2

args = read_args()
if args.workload != "w2":
    raise SystemExit("The reference training has no freezing: workload w2 only.")
torch.manual_seed(args.seed)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.benchmark = True

finish = [
    v2.PILToTensor(),
    v2.ToDtype(torch.float, scale=True),
    v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    v2.ToPureTensor(),
]
train_set = datasets.ImageFolder(
    args.data / "train", v2.Compose([v2.RandomResizedCrop(IMAGE_SIZE), v2.RandomHorizontalFlip(0.5), *finish])
)
val_set = datasets.ImageFolder(
    args.data / "val", v2.Compose([v2.Resize(RESIZED, antialias=True), v2.CenterCrop(IMAGE_SIZE), *finish])
)
workers = min(16, CORES)  # the reference's 16, or what torch advises where there are fewer cores
train_loader = torch.utils.data.DataLoader(
    train_set, batch_size=BATCH, sampler=torch.utils.data.RandomSampler(train_set), num_workers=workers,
    pin_memory=device.type == "cuda", drop_last=True,
)  # fmt: skip
val_loader = torch.utils.data.DataLoader(
    val_set, batch_size=BATCH, sampler=torch.utils.data.SequentialSampler(val_set), num_workers=workers,
    pin_memory=device.type == "cuda",
)  # fmt: skip

model = models.get_model("resnet18", weights=None, num_classes=CLASSES)
model.load_state_dict(torch.load(args.weights))
model.to(device)
if args.fast:
    model.to(memory_format=torch.channels_last)
criterion = nn.CrossEntropyLoss(label_smoothing=0.0)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=0.0)


def autocast():
    return torch.autocast(device.type, torch.bfloat16) if args.fast else contextlib.nullcontext()


def correct_in(output, target, k):
    _, predicted = output.topk(k, 1)
    return (predicted == target[:, None]).any(1).float().sum().item()


def run(loader, train):
    model.train(train)
    totals = {"loss": 0.0, "acc1": 0.0, "acc5": 0.0, "images": 0}
    for place, (image, target) in enumerate(loader):
        start = time.time()
        image, target = image.to(device, non_blocking=True), target.to(device, non_blocking=True)
        if args.fast:
            image = image.to(memory_format=torch.channels_last)
        with autocast():
            output = model(image)
            loss = criterion(output, target)
        if train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        totals["loss"] += loss.item() * len(image)
        totals["acc1"] += correct_in(output, target, 1)
        totals["acc5"] += correct_in(output, target, 5)
        totals["images"] += len(image)
        if place % 10 == 0:
            seen = totals["images"]
            print(
                f"[{place}/{len(loader)}] loss {totals['loss'] / seen:.4f} acc1 {100 * totals['acc1'] / seen:.2f} "
                f"acc5 {100 * totals['acc5'] / seen:.2f} img/s {len(image) / (time.time() - start):.1f}",
                flush=True,
            )
    return totals["acc1"] / totals["images"]


for epoch in range(args.task.epochs):
    run(train_loader, train=True)
    with torch.inference_mode():
        accuracy = run(val_loader, train=False)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save(state, args.output / "checkpoint.pth")
report(args, accuracy=accuracy, steps=args.task.epochs * len(train_loader))
