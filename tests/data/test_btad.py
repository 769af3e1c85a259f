"""The reader of BTAD."""

from __future__ import annotations

from pathlib import Path

from layout_copies import write_btad

from hvqray.data.btad import read_btad


def test_ok_is_good_and_masks_may_be_of_another_format(tmp_path: Path) -> None:
    write_btad(tmp_path)
    dataset = read_btad(tmp_path)
    assert dataset.class_names == ("01", "02", "03")
    assert {sample.defect for sample in dataset.samples} == {"good", "ko"}
    first = next(sample for sample in dataset.samples if sample.is_anomalous)
    assert first.path == tmp_path / "01/test/ko/0000.bmp"
    assert first.mask_path == tmp_path / "01/ground_truth/ko/0000.png"
    assert {sample.class_name for sample in read_btad(tmp_path, ["02"]).samples} == {"02"}
