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


def test_settings_read_as_they_are_written() -> None:
    assert wording.one_line(
        {"model.image_head": False, "train.images_per_epoch": None, "model.mix": [True, 1]}
    ) == ("image_head=false images_per_epoch=null mix=[true, 1]")


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-22T21:49:47+00:00", "2026-11-22 21:49 UTC"),
        ("2026-11-22T21:49:47.123+00:00", "2026-11-22 21:49 UTC"),
        ("yesterday", "yesterday"),
    ],
)
def test_moment(text: str, shown: str) -> None:
    assert wording.moment(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/parts/x.png: is no image", ".../x.png: is no image"),
        ("cannot read '/home/ann/x.png'", "cannot read '.../x.png'"),
        ("weights=/home/ann/w.pth, ~/data/w.pth", "weights=.../w.pth, .../w.pth"),
        ("val/image_auroc and 3/4 of images/s, https://example.org/a/b", None),
        ("train/good has no image", None),
    ],
)
def test_paths_are_shown_by_their_last_part(text: str, shown: str | None) -> None:
    assert wording.without_places(text) == (shown or text)


def test_a_command_is_shown_without_places() -> None:
    command = "python -m hvqray.sweep s.yaml --data '/home/ann/my parts' --set a=/w/x.pth --set 'b=[/w/y, 1]' --set c=/d"
    shown = "python -m hvqray.sweep s.yaml --data '.../my parts' --set a=.../x.pth --set 'b=[.../y, 1]' --set c=.../d"
    assert wording.command_without_places(command) == shown
    assert wording.command_without_places("half a 'quote /home/ann/x") == "half a 'quote .../x"
