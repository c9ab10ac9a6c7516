"""Hugging Face: Trainer on an imagefolder data set, with its default of no loader workers."""

import os

import numpy as np
import torch
from task import BATCH, CLASSES, IMAGE_SIZE, RESIZED, read_args, report

args = read_args()
# What `datasets` writes stays with the run.
os.environ.update(HF_HOME=str(args.output / "hf"), HF_HUB_OFFLINE="1")

from datasets import load_dataset  # noqa: E402
from torchvision import transforms  # noqa: E402
from transformers import (  # noqa: E402
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    get_constant_schedule,
    set_seed,
)  # fmt: skip

set_seed(args.seed)
normalize = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
centre = [transforms.Resize(RESIZED), transforms.CenterCrop(IMAGE_SIZE)]
random = [transforms.RandomResizedCrop(IMAGE_SIZE), transforms.RandomHorizontalFlip()]
train_way = transforms.Compose([*(random if args.task.augment else centre), *normalize])
val_way = transforms.Compose([*centre, *normalize])


def train_transforms(examples):
    examples["pixel_values"] = [train_way(image.convert("RGB")) for image in examples["image"]]
    return examples


def val_transforms(examples):
    examples["pixel_values"] = [val_way(image.convert("RGB")) for image in examples["image"]]
    return examples


def collate_fn(examples):
    pixel_values = torch.stack([example["pixel_values"] for example in examples])
    return {"pixel_values": pixel_values, "labels": torch.tensor([example["label"] for example in examples])}


def compute_metrics(prediction):
    return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


def hf_name(name):
    """torchvision's name of a tensor, in transformers' ResNet."""
    parts = name.split(".")
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    if parts[0] in ("conv1", "bn1"):
        kind = "convolution" if parts[0] == "conv1" else "normalization"
        return f"resnet.embedder.embedder.{kind}.{parts[1]}"
    stage, block = int(parts[0].removeprefix("layer")) - 1, parts[1]
    prefix = f"resnet.encoder.stages.{stage}.layers.{block}"
    if parts[2] == "downsample":
        kind = "convolution" if parts[3] == "0" else "normalization"
        return f"{prefix}.shortcut.{kind}.{parts[4]}"
    kind = "convolution" if parts[2].startswith("conv") else "normalization"
    return f"{prefix}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[3]}"


folder = load_dataset("imagefolder", data_files={s: str(args.data / s / "**") for s in ("train", "val")})
folder["train"].set_transform(train_transforms)
folder["val"].set_transform(val_transforms)
config = ResNetConfig(
    layer_type="basic", embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=CLASSES
)
model = ResNetForImageClassification(config)
model.load_state_dict({hf_name(name): tensor for name, tensor in torch.load(args.weights).items()})
if args.fast:
    model = model.to(memory_format=torch.channels_last)

steps = 0
for trains, epochs in args.task.phases:
    for parameter in model.parameters():
        parameter.requires_grad = trains == "all"
    layer4 = model.resnet.encoder.stages[3]
    for part in {"all": [], "layer4": [layer4, model.classifier], "head": [model.classifier]}[trains]:
        for parameter in part.parameters():
            parameter.requires_grad = True
    algorithm = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}[args.optimizer]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = algorithm(parameters, lr=args.lr, momentum=args.momentum)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.output),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            # As many steps as everybody takes, who drop an epoch's last small batch: dataloader_drop_last would drop
            # validation's too.
            max_steps=epochs * (len(folder["train"]) // BATCH),
            eval_strategy="epoch",
            remove_unused_columns=False,
            report_to="none",
            seed=args.seed,
            **({"bf16": True} if args.fast else {}),
            **({} if torch.cuda.is_available() else {"use_cpu": True}),
        ),
        train_dataset=folder["train"],
        eval_dataset=folder["val"],
        data_collator=collate_fn,
        compute_metrics=compute_metrics,
        optimizers=(optimizer, get_constant_schedule(optimizer)),
    )
    trainer.train()
    steps += trainer.state.global_step
    accuracy = next(entry["eval_accuracy"] for entry in reversed(trainer.state.log_history) if "eval_accuracy" in entry)
report(args, accuracy=accuracy, steps=steps)
