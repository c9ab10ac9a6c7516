"""fastai: vision_learner, freeze_to and fit, with fastai's own two-layer head."""

from functools import partial

import torch
from fastai.vision.all import (
    SGD,
    Callback,
    CrossEntropyLossFlat,
    Flip,
    ImageDataLoaders,
    L,
    Normalize,
    RandomResizedCrop,
    Resize,
    RMSProp,
    accuracy,
    imagenet_stats,
    params,
    resnet18,
    set_seed,
    to_float,
    vision_learner,
)  # fmt: skip
from task import BATCH, IMAGE_SIZE, read_args, report

args = read_args()
set_seed(args.seed)


class Autocast(Callback):
    """fastai's own MixedPrecision asks for CUDA; elsewhere one has to write it."""

    def before_batch(self):
        self.context = torch.autocast(self.dls.device.type, torch.bfloat16)
        self.context.__enter__()

    def after_pred(self):
        self.learn.pred = to_float(self.pred)

    def after_loss(self):
        self.context.__exit__(None, None, None)


def split(model):
    """Stem to layer3, layer4, head: vision_learner's own groups would unfreeze layer3 with layer4."""
    return L(model[0][:7], model[0][7:], model[1:]).map(params)


dls = ImageDataLoaders.from_folder(
    args.data,
    train="train",
    valid="val",
    bs=BATCH,
    item_tfms=RandomResizedCrop(IMAGE_SIZE) if args.task.augment else Resize(IMAGE_SIZE),
    batch_tfms=[*([Flip()] if args.task.augment else []), Normalize.from_stats(*imagenet_stats)],
)
algorithm = {"sgd": SGD, "rmsprop": RMSProp}[args.optimizer]
learn = vision_learner(
    dls,
    resnet18,
    pretrained=False,
    loss_func=CrossEntropyLossFlat(),
    opt_func=partial(algorithm, mom=args.momentum),
    metrics=accuracy,
    splitter=split,
    path=args.output,
)
state = [tensor for name, tensor in torch.load(args.weights).items() if not name.startswith("fc.")]
learn.model[0].load_state_dict(dict(zip(learn.model[0].state_dict(), state, strict=True)))
if args.fast:
    learn.to_channelslast(use_amp=False)
    learn.add_cb(Autocast())

for trains, epochs in args.task.phases:
    learn.freeze_to({"head": -1, "layer4": -2, "all": 0}[trains])
    learn.fit(epochs, lr=args.lr)
report(args, accuracy=learn.recorder.values[-1][-1], steps=args.task.epochs * len(dls.train))
