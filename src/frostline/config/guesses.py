"""Names that other programs give to what has another key here, and words that others take without a key."""

from collections.abc import Mapping

# What to type; several where commands have different keys, the first that a command has.
GUESSES: Mapping[str, tuple[str, ...]] = {
    name: keys
    for names, keys in (
        ("lr learning_rate base_lr init_lr", ("optimizer.lr",)),
        ("epochs epoch max_epoch max_epochs num_epochs n_epochs num_train_epochs", ("trainer.max_epochs",)),
        ("steps num_steps max_iters iterations", ("trainer.max_steps",)),
        ("bs batch batch_size batchsize train_batch_size", ("data.batch_size", "batch_size")),
        ("imgsz img_size image_size input_size crop_size", ("data.image_size",)),
        ("workers num_workers n_workers dataloader_num_workers", ("data.workers",)),
        ("devices", ("device.devices",)),
        ("gpus gpu num_gpus n_gpu", ("device=gpu device.devices=NUMBER",)),
        ("ckpt_path ckpt resume checkpoint_path resume_from_checkpoint", ("resume_from", "checkpoint")),
        ("checkpoint", ("init_from",)),
        ("pretrained", ("model.weights=imagenet",)),
        ("arch backbone model_name architecture", ("model=resnet50",)),
        ("data_dir data_path dataset_path dataset_dir train_dir root_dir", ("data=image_folder data.path=FOLDER",)),
        ("dataset", ("data=image_folder",)),
        ("wd decay l2", ("optimizer.weight_decay",)),
        ("opt optim", ("optimizer=adamw",)),
        ("sched lr_scheduler", ("scheduler=cosine",)),
        ("amp fp16 bf16 half use_amp mixed_precision", ("trainer.precision",)),
        ("clip_grad max_grad_norm grad_clip", ("trainer.gradient_clip_val",)),
        ("gradient_accumulation_steps accum_iter accumulate", ("trainer.accumulate_grad_batches",)),
        ("val_interval eval_interval", ("trainer.check_val_every_n_epoch",)),
        ("enable_progress_bar", ("callbacks.progress_bar",)),
        ("patience early_stopping early_stop", ("callbacks.early_stopping_patience",)),
        ("save_every save_interval every_n_train_steps", ("callbacks.checkpoint_every_n_steps",)),
        ("out_dir outdir save_dir log_dir logdir work_dir default_root_dir", ("output_dir", "output")),
        ("out output output_file", ("output", "output_dir")),
        ("input images image source path", ("inputs", "data.path")),
        ("random_seed manual_seed seed_everything", ("seed",)),
        ("freeze_backbone freeze_encoder", ("freeze=backbone",)),
        ("smoothing", ("loss.label_smoothing",)),
        ("warmup warmup_epochs warmup_steps", ("scheduler.warmup",)),
        ("topk k", ("top_k",)),
        ("wandb use_wandb", ("logger=wandb",)),
        ("aug augmentation auto_augment", ("augment=standard",)),
        ("val_split validation_split val_size val_ratio", ("data.val_fraction",)),
    )
    for name in names.split()
}

# Arguments of Lightning's Trainer that are no keys, and why.
REFUSED: Mapping[str, str] = {
    "trainer.logger": "loggers are a group of their own: type logger=csv, logger=[csv,wandb] or logger=none.",
    "trainer.callbacks": "callbacks are a group of their own: type ++callbacks.NAME._target_=CLASS.",
    "trainer.plugins": "frostline writes checkpoints atomically and knows the cluster. Type trainer.precision=…, "
    "trainer.sync_batchnorm=true, or device.strategy for a strategy of your own.",
    "trainer.barebones": "it would turn off checks of the policy that log. Type logger=none "
    "trainer.enable_checkpointing=false callbacks.progress_bar=false.",
    "trainer.limit_predict_batches": "a training predicts nothing. Type frostline predict with the images as inputs.",
    "trainer.use_distributed_sampler": "processes share out the images without padding, so that each is evaluated "
    "once; Lightning's sampler would repeat some. Leave it out.",
    "trainer.reload_dataloaders_every_n_epochs": "batches follow from the seed and the step alone, by which a run is "
    "resumed exactly; loaders that are made again would change nothing. Leave it out.",
    "trainer.enable_autolog_hparams": "each logger gets the whole config. Leave it out, or type logger=none.",
    "trainer.model_registry": "checkpoints stay in the run folder. To upload them, name a callback of your own: "
    "++callbacks.NAME._target_=CLASS.",
}

# The keys that words without one are for, in their order.
WITHOUT_KEY: Mapping[str, tuple[str, ...]] = {
    "train": ("data=image_folder data.path",),
    "plan": ("data=image_folder data.path",),
    "evaluate": ("checkpoint",),
    "calibrate": ("checkpoint",),
    "predict": ("checkpoint", "inputs", "output"),
    "explain": ("checkpoint", "inputs"),
    "export": ("checkpoint", "output"),
    "show": ("data=image_folder data.path", "output"),
    "pack": ("data=image_folder data.path", "output"),
    "lr_find": ("data=image_folder data.path",),
    "graph": ("checkpoint",),
    "gradients": ("checkpoint",),
    "tour": (),
}


def guessed(name: str, tops: set[str]) -> str | None:
    """What to type for a name of another program's; None where no key is like it.

    Args:
        tops: the keys and groups at the top of the command's config.
    """
    for keys in GUESSES.get(name, ()):
        if keys.partition("=")[0].partition(".")[0] in tops:
            return keys
    return None
