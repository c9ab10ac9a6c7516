"""Train a dozen configs and print a hash of each run's last weights, to compare two versions of frostline bit by bit.

python scripts/freezing/weight_hashes.py /path/to/one/frostline /path/to/another/frostline
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

SMALL = (
    *("model.weights=none", "data=synthetic", "data.length=96", "data.val_length=32", "data.test_length=32"),
    *("data.image_size=32", "data.batch_size=16", "device=cpu", "trainer.max_epochs=2", "callbacks.progress_bar=false"),
)
CONFIGS: dict[str, Sequence[str]] = {
    "defaults": (),
    "head, cached": ("freeze=backbone",),
    "layer4, augmented": ("freeze=to_layer3", "augment=standard", "optimizer=adamw"),
    "gradual, accumulation": ("freeze=gradual_unfreezing", "trainer.accumulate_grad_batches=2"),
    "batch norm only": ("freeze=all_but_batch_norm", "optimizer=rmsprop", "scheduler=cosine"),
    "drifting statistics": ("freeze=to_layer2", "freeze.batch_norm=drift", "trainer.precision=32-true"),
    "mixup, clipped": ("freeze=discriminative", "augment.mixup=0.2", "trainer.gradient_clip_val=1"),
    "two workers": ("freeze=all_but_bias", "data.workers=2", "augment=crop"),
    "views": ("freeze=backbone", "augment=light", "cache.views=2", "head=mlp"),
    "plain": ("freeze=surgical", "speed=plain", "loss.class_weights=balanced", "optimizer.exclude_from_decay=[bias]"),
    "two processes": ("device=cpu_ddp", "freeze=gradual_unfreezing"),
}
# The first run ends early; the second goes on from its last checkpoint.
RESUMED = ("freeze=gradual_unfreezing", "augment=crop", "optimizer=adamw")


def trained(frostline: Path, *words: str) -> Path:
    """The last checkpoint of a training."""
    folder = Path(tempfile.mkdtemp())
    env = {**os.environ, "FROSTLINE_CACHE": str(folder / "features"), "RUN_ID": "run", "OMP_NUM_THREADS": "1"}
    command = [frostline, "train", *SMALL, *words, f"output_dir={folder}", "test=false"]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return folder / "run/checkpoints/last.ckpt"


def weight_hash(checkpoint: Path) -> str:
    """SHA-256, in short, of the names, types and bytes of all tensors of the network."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def hashes(frostline: Path) -> dict[str, str]:
    found = {}
    for name, words in CONFIGS.items():
        found[name] = weight_hash(trained(frostline, *words))
        print(f"{name:<24} {found[name]}", flush=True)
    first = trained(frostline, *RESUMED, "trainer.max_epochs=1")
    found["resumed"] = weight_hash(trained(frostline, *RESUMED, f"resume_from={first}"))
    print(f"{'resumed':<24} {found['resumed']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frostline", nargs="+", type=Path, help="executables of the versions to compare")
    versions = [hashes(path.absolute()) for path in parser.parse_args().frostline]
    different = [name for name in versions[0] if len({version[name] for version in versions}) > 1]
    if different:
        sys.exit(f"different weights: {', '.join(different)}")


if __name__ == "__main__":
    main()
