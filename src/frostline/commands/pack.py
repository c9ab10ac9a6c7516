"""frostline pack: a source's images as shards, which data=streaming reads from a disk or a store."""

from pathlib import Path

from frostline.commands.build import build_data
from frostline.commands.failures import explained
from frostline.commands.quoting import override_text, shell_text
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import PackConfig
from frostline.data.chunk_writer import MIB, ChunkSummary, ChunkWriter
from frostline.data.cores import usable_cores
from frostline.data.source import SPLITS
from frostline.progress_line import Part, ProgressLine, of_total


@explained
def run(config: PackConfig) -> None:
    """Write a folder of shards, and say what is in it."""
    quiet_libraries()
    data = build_data(config.data, seed=config.seed)
    found = {split: data.images(split) for split in SPLITS}
    images = {split: of_split for split, of_split in found.items() if of_split is not None}
    length = sum(map(len, images.values()))
    output = Path(config.output)
    writer = ChunkWriter(
        chunk_size=config.chunk_size,
        seed=config.seed,
        skip_broken=config.skip_broken,
        workers=_workers(config.data.workers, length),
    )
    line = ProgressLine()

    def progress(split: str, done: int) -> None:
        line.show(Part(f"writing {split}", 1), Part(of_total(done, len(images[split])), 0))

    try:
        written = writer.write(images, classes=data.classes, output=output, progress=progress)
    finally:
        line.clear()
    print("\n".join([*data.notes, _text(written, output)]))


def _workers(wanted: int | str, length: int) -> int:
    """Reading and checking an image takes a core some 10 ms; a process more than pays from a thousand images on."""
    if isinstance(wanted, int):
        return wanted
    return 0 if length < 1000 else max(0, min(16, usable_cores() - 1))


def _text(written: ChunkSummary, output: Path) -> str:
    lines = [
        f"{split}: {count:,} images, {written.bytes[split] / MIB:,.1f} MiB, chunks: {written.chunks[split]:,}"
        for split, count in written.images.items()
    ]
    if written.broken:
        lines += [f"{len(written.broken)} images could not be read and were left out:"]
        lines += [f"  {line}" for line in written.broken]
    again = shell_text(override_text("data.path", str(output)))
    return "\n".join([*lines, f"shards: {output.resolve()}; train on it with data=streaming {again}"])
