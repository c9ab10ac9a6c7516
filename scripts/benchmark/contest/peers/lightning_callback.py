"""Lightning: a default Trainer with BackboneFinetuning, as its documentation shows them."""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from task import BATCH, CLASSES, CORES, IMAGE_SIZE, RESIZED, read_args, report
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, models, transforms

args = read_args()


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        network = models.resnet18(num_classes=CLASSES)
        network.load_state_dict(torch.load(args.weights))
        self.head = network.fc
        network.fc = nn.Identity()
        self.backbone = network
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def forward(self, images):
        if args.fast:
            images = images.to(memory_format=torch.channels_last)
        return self.head(self.backbone(images))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        self.accuracy(logits, labels)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", self.accuracy, prog_bar=True)

    def configure_optimizers(self):
        algorithm = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}[args.optimizer]
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return algorithm(parameters, lr=args.lr, momentum=args.momentum)


class Images(L.LightningDataModule):
    def __init__(self):
        super().__init__()
        normalize = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        centre = [transforms.Resize(RESIZED), transforms.CenterCrop(IMAGE_SIZE)]
        random = [transforms.RandomResizedCrop(IMAGE_SIZE), transforms.RandomHorizontalFlip()]
        self.train_transform = transforms.Compose([*(random if args.task.augment else centre), *normalize])
        self.val_transform = transforms.Compose([*centre, *normalize])
        # What Lightning advises where it finds no workers.
        self.options = {"batch_size": BATCH, "num_workers": max(1, CORES - 1), "persistent_workers": True}

    def train_dataloader(self):
        images = datasets.ImageFolder(args.data / "train", self.train_transform)
        # Dropping the last batch is the benchmark's: everybody takes the same number of steps.
        return torch.utils.data.DataLoader(images, shuffle=True, drop_last=True, **self.options)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(datasets.ImageFolder(args.data / "val", self.val_transform), **self.options)


class Gradual(BaseFinetuning):
    """BackboneFinetuning unfreezes all at once; for several steps its documentation shows this."""

    def __init__(self):
        super().__init__()
        self.unfreeze_at = {}
        epoch = 0
        for trains, epochs in args.task.phases:
            self.unfreeze_at[epoch] = trains
            epoch += epochs

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, current_epoch, optimizer):
        part = {"layer4": pl_module.backbone.layer4, "all": pl_module.backbone}.get(self.unfreeze_at.get(current_epoch))
        if part is not None:
            self.unfreeze_and_add_param_group(part, optimizer, lr=args.lr)


L.seed_everything(args.seed)
callbacks = {
    "w2": [],
    "w3": [Gradual()],
}.get(args.workload, [BackboneFinetuning(unfreeze_backbone_at_epoch=args.task.epochs + 1)])
classifier = Classifier()
if args.fast:
    classifier = classifier.to(memory_format=torch.channels_last)
trainer = L.Trainer(
    max_epochs=args.task.epochs,
    default_root_dir=args.output,
    callbacks=callbacks,
    **({"precision": "bf16-mixed"} if args.fast else {}),
)
trainer.fit(classifier, datamodule=Images())
report(args, accuracy=trainer.callback_metrics["val_acc"], steps=trainer.global_step)
