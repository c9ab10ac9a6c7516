import pytest

from frostline.tables import as_text, count, new_table, shape_text, size


def test_a_table_aligns_names_left_and_numbers_right_without_colours_or_trailing_spaces() -> None:
    table = new_table("stage", "number", "remark", left=("remark",))
    table.add_row("head", "5", "[bold]")
    table.add_row("layer4", "1,000", ":smile:", style="cyan")
    assert as_text(table) == "stage   number  remark\nhead         5  [bold]\nlayer4   1,000  :smile:"


def test_a_shape_is_its_extents() -> None:
    assert (shape_text((2, 512)), shape_text(())) == ("2×512", "scalar")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (204_900, "200 KiB"),
        (3_663_460, "3.49 MiB"),
        (5 << 30, "5 GiB"),
    ],
)
def test_sizes_are_binary(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (12, "12"), (10_240, "10.2 k"), (67_108_864, "67.1 M")])
def test_counts_are_decimal(number: float, text: str) -> None:
    assert count(number) == text
