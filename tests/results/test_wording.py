from __future__ import annotations

import pytest

from hvqray.results import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "-"),
        (0, "0 MB"),
        (869_600_000, "870 MB"),
        (999_600_000, "1.0 GB"),
        (1_690_000_000, "1.7 GB"),
    ],
)
def test_size(size_bytes: int | None, text: str) -> None:
    assert wording.size(size_bytes) == text


def test_number() -> None:
    assert [wording.number(value) for value in (None, 0.0, 0.87654, -0.5, 1e-5, 123456.0)] == [
        "-",
        "0.0000",
        "0.8765",
        "-0.5000",
        "1e-05",
        "1.23e+05",
    ]


def test_a_name_is_called_by_what_it_names() -> None:
    assert (
        wording.one_line({"model.name": "squad", "data.backbone.name": "tf_efficientnet_b4"})
        == "model=squad backbone=tf_efficientnet_b4"
    )


def test_short_names_stay_distinct() -> None:
    assert wording.short_names(["train.lr", "model.width", "other.width"]) == {
        "train.lr": "lr",
        "model.width": "model.width",
        "other.width": "other.width",
    }
    assert (
        wording.one_line(
            {"train.lr": 0.00123456, "model.fsq_levels": [8, 5], "model.quantizer": ["vq", "fsq"]}
        )
        == "lr=0.00123 fsq_levels=[8, 5] quantizer=[vq, fsq]"
    )
