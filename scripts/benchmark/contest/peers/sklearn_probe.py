"""scikit-learn's LogisticRegression on features that the expert's script computes once: a linear probe."""

import pickle

import torch
from expert import FROZEN, frozen_features, image_loader, modules_of
from sklearn.linear_model import LogisticRegression
from task import read_args, report

args = read_args()
if args.workload != "w1a":
    raise SystemExit("A linear probe of fixed images: workload w1a only.")
torch.manual_seed(args.seed)
_, modules = modules_of(args.weights)
frozen = torch.nn.Sequential(*modules[: FROZEN["head"]]).eval()
features, labels = {}, {}
for split in ("train", "val"):
    found, labels[split] = frozen_features(frozen, image_loader(args.data, split, random=False))
    features[split] = found.float().cpu().numpy()
probe = LogisticRegression(max_iter=1000).fit(features["train"], labels["train"].cpu())
(args.output / "probe.pickle").write_bytes(pickle.dumps(probe))
report(args, accuracy=probe.score(features["val"], labels["val"].cpu()), steps=int(probe.n_iter_[0]))
