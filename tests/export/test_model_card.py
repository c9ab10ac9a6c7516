"""A model card says what the run recorded, nothing else, and names from outside are no markup in it."""

from frostline.export.model_card import FEW, model_card

DESCRIBED = {
    "recipe": {"model": {"name": "resnet18"}, "head": {"name": "linear"}},
    "images": {"classes": ["<script>alert(1)</script>", "a|b\nc"], "image_size": 64},
    "policy": {"phases": [{"name": "static", "train": ["layer4", "head"]}]},
    "settings": {
        "data": {"name": "image_folder", "path": "photos"},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "seed": 3,
    },
}
FACTS = {
    "data": {"images": {"train": 1200, "test": 40}, "left_out": {"no image": 2}},
    "results": {"test/accuracy": 0.875, "test/calibration_error": 0.031, "test/loss": 0.4},
    "per_class": [
        {"class": "<script>alert(1)</script>", "images": FEW, "precision": 0.9, "recall": 0.8, "f1": 0.85},
        {"class": "a|b\nc", "images": 10, "precision": 0.5, "recall": 1.0, "f1": 0.667},
    ],
    "freezing": {"held": True, "tensors_compared": 60},
    "steps": 800,
    "epochs": 8,
    "weights": {"source": "ImageNet", "warning": None},
    "command": "frostline train freeze=to_layer3",
}


def card(facts, *, tested=True, described=DESCRIBED):
    return model_card(described, facts, parameters=11_000_000, tested=tested)


def test_a_card_holds_the_runs_facts():
    text = card(FACTS)
    for line in (
        "# resnet18, 2 classes",
        "- network: resnet18, 11,000,000 parameters",
        "- train: 1,200 images",
        "- left out: 2 (no image)",
        "| test accuracy | 87.50 % |",
        "| test loss | 0.4000 |",
        "- phase static trains: layer4, head",
        "- frozen tensors stayed bit-identical: 60 were compared",
        "- optimizer: name sgd, lr 0.01",
        "- optimizer steps: 800; epochs: 8",
        "- Its probabilities differ from the share that is right by 3.1 % on average.",
    ):
        assert line in text.splitlines()


def test_a_calibrated_checkpoint_says_by_how_much_without_and_with_its_temperature():
    found = {split: {"images": 40, "after": {"calibration_error": 0.012}} for split in ("val", "test")}
    lines = card(FACTS, described={**DESCRIBED, "calibration": {"temperature": 1.52, "results": found}}).splitlines()
    differ = "differ from the share that is right by"
    assert f"- Its probabilities without its temperature {differ} 3.1 % on average." in lines
    with_it = "- With its temperature 1.52, fitted on 40 val images, its probabilities"
    assert f"{with_it} {differ} 1.2 % on average, test images." in lines


def test_names_are_text_of_one_line_in_a_card():
    text = card(FACTS)
    assert "<script" not in text.replace(r"\<script", "")
    row = r"| a\|b\\nc | 10 | 50.0 % | 100.0 % | 66.7 % |"
    assert row in text.splitlines()
    assert r"uncertain: a\|b\\nc (10)." in text


def test_only_classes_with_few_test_images_are_called_uncertain():
    [line] = [line for line in card(FACTS).splitlines() if "uncertain" in line]
    assert "script" not in line


def test_a_checkpoint_that_the_run_did_not_test_has_no_results():
    text = card(FACTS, tested=False)
    assert "No test of this checkpoint is recorded." in text
    assert "87.50" not in text
    assert "uncertain" not in text


def test_a_checkpoint_alone_invents_nothing():
    text = card({}, described={**DESCRIBED, "recipe": None, "settings": {}})
    assert "# network built by hand, 2 classes" in text
    assert "does not say on which data" in text
    assert "command" not in text
    assert "None" not in text
