"""`frostline explain`, as typed; in this process, since each start of torch takes seconds.

The training is a process of its own: it ends by closing the streams that its log went to.
"""

from pathlib import Path

import pytest
from PIL import Image
from tests.preloaded import FROSTLINE
from tests.preloaded import run as run_preloaded

from frostline.commands.main import main

SMALL = (
    "data=synthetic", "data.length=16", "data.classes=3", "data.image_size=64", "data.batch_size=8",
    "model.weights=none", "trainer.precision=32-true", "freeze=backbone", "trainer.max_epochs=1", "test=false",
    "callbacks.progress_bar=false",
)  # fmt: skip


def test_each_image_gets_a_picture_and_mistakes_get_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "cache"))
    assert run_preloaded([*FROSTLINE, "train", *SMALL], output=tmp_path).returncode == 0
    [run] = (tmp_path / "runs").iterdir()
    for name, colour in (("a/one.png", "red"), ("b/one.jpg", "blue"), ("b/$a_$.png", "green")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 70), colour).save(path)
    (tmp_path / "photos/broken.png").write_bytes(b"no image")
    words = [f"checkpoint={run}", "inputs=photos"]
    capsys.readouterr()
    main("explain", words)
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "explanations").iterdir()) == ["$a_$.png", "one-2.png", "one.png"]
    assert "3 of 4 images explained by layer4, 2 × 2 places" in out
    assert "broken.png: " in out
    with Image.open(tmp_path / "explanations/one.png") as picture:
        assert picture.size[0] >= 800
    main("explain", [*words, "of_class=class1", "output=other"])
    assert "class1: " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main("explain", [*words, "of_class=class9", "output=third"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "of_class=class9: the checkpoint has no such class. It has: " in error
    assert "Traceback" not in error
    assert not (tmp_path / "third").exists()
