"""timm: its loaders, optimizer factory and meters, with a step in the style of its training script."""

import contextlib

import torch
from task import BATCH, CLASSES, CORES, IMAGE_SIZE, read_args, report
from timm import create_model
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy, random_seed
from torch import nn

args = read_args()
if args.workload != "w2":
    raise SystemExit("timm's training script has no freezing: workload w2 only.")
random_seed(args.seed)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

model = create_model("resnet18", pretrained=False, num_classes=CLASSES)
model.load_state_dict(torch.load(args.weights))
model.to(device)
if args.fast:
    model.to(memory_format=torch.channels_last)
optimizer = create_optimizer_v2(model, opt="momentum", lr=args.lr, momentum=args.momentum, weight_decay=0.0)
options = {
    "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
    "batch_size": BATCH,
    "num_workers": min(4, CORES),  # the script's 4, or what torch advises where there are fewer cores
    "device": device,
    "use_prefetcher": device.type == "cuda",
}
train_loader = create_loader(
    create_dataset("", root=str(args.data), split="train", is_training=True),
    is_training=True,
    color_jitter=0.0,  # the benchmark's: random-resized crop and flip only
    **options,
)
val_loader = create_loader(create_dataset("", root=str(args.data), split="val"), crop_pct=0.875, **options)
criterion = nn.CrossEntropyLoss()


def autocast():
    return torch.autocast(device.type, torch.bfloat16) if args.fast else contextlib.nullcontext()


def to_device(images, target):
    images, target = images.to(device), target.to(device)
    return (images.contiguous(memory_format=torch.channels_last) if args.fast else images), target


steps = 0
for epoch in range(args.task.epochs):
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    model.train()
    for place, (images, target) in enumerate(train_loader):
        images, target = to_device(images, target)
        with autocast():
            loss = criterion(model(images), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        losses.update(loss.item(), images.size(0))
        if place % 50 == 0:
            print(f"Train: {epoch} [{place}/{len(train_loader)}] loss {losses.val:.3f} ({losses.avg:.3f})", flush=True)
    model.eval()
    with torch.inference_mode():
        for images, target in val_loader:
            images, target = to_device(images, target)
            with autocast():
                output = model(images)
            reached = accuracy(output, target, topk=(1, 5))
            top1.update(reached[0].item(), images.size(0))
            top5.update(reached[1].item(), images.size(0))
    print(f"Test: acc@1 {top1.avg:.3f} acc@5 {top5.avg:.3f}", flush=True)
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, args.output / "last.pth.tar")
report(args, accuracy=top1.avg / 100, steps=steps)
