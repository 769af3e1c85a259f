from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_sweep import OBJECTIVE, write_fake_sweep

from hvqray.environment import code_version
from hvqray.errors import InputError
from hvqray.results.html_report import build_html_report

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += " " + " ".join(data.split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = write_fake_sweep(tmp_path_factory.mktemp("runs") / "fsq", num_trials=17)
    return Page(build_html_report(folder))


def test_says_what_the_numbers_come_from(built: Page) -> None:
    for fact in (
        "fsq",
        "parts, 224 px",
        code_version(),
        "2 cores of a processor",
        "10 complete, 4 pruned, 3 failed",
    ):
        assert fact in built.text
    assert "selected on test" not in built.text.lower()


def test_has_every_section(built: Page) -> None:
    for heading in (
        "In short",
        "Best model per class",
        "Anomaly maps of the best model",
        "Trials",
        f"Optimisation history of {OBJECTIVE}",
        f"Parameter importances for {OBJECTIVE}",
        "Parallel coordinates",
        "Classes by trials",
        "Codebook use over the epochs",
        "Failed trials",
        "How it was run",
    ):
        assert heading in built.text
    assert "Charts not shown" not in built.text
    assert sum(attributes.get("class") == "plotly-graph-div" for _, attributes in built.tags) == 5
    assert all(f"t000{number}" in built.text for number in range(10))


def test_needs_no_network(built: Page) -> None:
    for tag, attributes in built.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name)
    assert not any(tag == "link" for tag, _ in built.tags)
    (policy,) = [
        attributes["content"]
        for tag, attributes in built.tags
        if tag == "meta" and "http-equiv" in attributes
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_maps_are_embedded(built: Page) -> None:
    images = [attributes for tag, attributes in built.tags if tag == "img"]
    assert len(images) == 4 * 2 * 3
    assert all((image["src"] or "").startswith("data:image/png;base64,iVBOR") for image in images)


def test_a_missing_mask_leaves_its_place_empty_and_the_pictures_are_named(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=1, classes=("cookie",))
    (folder / "best" / "maps" / "cookie_001_mask.png").unlink()
    html = build_html_report(folder).read_text()
    cells = [
        [
            (
                name,
                "picture" if "<img" in cell else cell.partition('<span class="none">')[2].partition("<")[0],
            )
            for cell in row.split("<div>")[1:]
            for name in re.findall(r'<span class="kind">([^<]*)</span>', cell)
        ]
        for row in re.findall(r'<div class="triple">(.*?)\n', html)
    ]
    image, mask, anomaly_map = ("image", "picture"), ("mask", "picture"), ("anomaly map", "picture")
    assert cells == [[image, mask, anomaly_map], [image, ("mask", "no mask"), anomaly_map]]


def check_tables(page: Page) -> None:
    """Every table has a caption, every heading says what it is of, and every row of a body has one."""
    inside = ""
    for tag, attributes in page.tags:
        inside = tag if tag in ("thead", "tbody") else inside
        if tag == "th":
            assert attributes.get("scope") == {"thead": "col", "tbody": "row"}[inside]
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") > 0
    scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert scopes.count("row") == tags.count("tr") - tags.count("thead")


def test_tables_are_named_and_have_headings_of_columns_and_rows(built: Page) -> None:
    check_tables(built)


def test_the_trials_are_sorted_by_buttons(tmp_path: Path, built: Page) -> None:
    html = build_html_report(write_fake_sweep(tmp_path / "one", num_trials=1)).read_text()
    head = html.partition('<table id="trials">')[2].partition("</thead>")[0]
    assert head.count("<th") == head.count("<button") + head.count("<thead") > 8
    assert "aria-sort" in html.rpartition("<script>")[2]


def test_charts_say_what_they_show(built: Page) -> None:
    labels = [attributes["aria-label"] for _, attributes in built.tags if attributes.get("role") == "img"]
    assert len(labels) == 5
    for label, title in zip(labels, ("Parameter importances", "Parallel coordinates"), strict=False):
        assert label is not None
        assert label.startswith(title)
        assert label.partition(". ")[2], "its caption"


def test_names_and_errors_are_escaped(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "evil", classes=("good", "<img onerror=x>"), with_best=False)
    (folder / "sweep.yaml").write_text((folder / "sweep.yaml").read_text().replace("A made-up search", EVIL))
    path = build_html_report(folder)
    page = Page(path)
    assert EVIL in page.text
    assert "<b>out of memory</b>" in page.text
    assert "alert(1)</script>" not in path.read_text()
    assert not any(tag in ("b", "img") for tag, _ in page.tags)


def test_selection_on_test_is_marked(tmp_path: Path) -> None:
    page = Page(build_html_report(write_fake_sweep(tmp_path / "one", validation="none")))
    assert page.text.lower().count("selected on test") >= 3


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    page = Page(build_html_report(write_fake_sweep(tmp_path / "one", num_trials=1)))
    assert "this needs at least 2 complete trials, and there are 1" in page.text
    assert "this needs at least 10 complete trials, and there are 1" in page.text


def test_a_sweep_without_trials_study_or_best(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "empty", num_trials=0)
    page = Page(build_html_report(folder))
    for reason in ("no trial is complete", "no trial has results per class", "no trial has a codebook"):
        assert reason in page.text
    assert "There is no best model" in page.text
    assert "No trial has ended" in page.text
    (folder / "study.db").unlink()
    assert "study.db is missing" in Page(build_html_report(folder)).text


def test_without_the_state_folder(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    shutil.rmtree(folder / ".state")
    assert "t0005" in Page(build_html_report(folder)).text


def test_more_than_one_study_is_refused(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=1)
    optuna.create_study(study_name="second", storage=f"sqlite:///{folder / 'study.db'}")
    with pytest.raises(InputError, match="holds 2 studies, where a sweep has exactly one"):
        build_html_report(folder)


def test_a_card_says_best_of_the_metric_alone_that_the_model_was_chosen_by(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=1)
    (folder / "study.db").unlink()
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    sweep["metric"] = [sweep["metric"], {"name": "val/pixel_ap", "goal": "maximize"}]
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    cards = Page(build_html_report(folder)).text.partition("Best model per class")[0]
    assert f"best {OBJECTIVE}" in cards
    assert "val/pixel_ap of the best model" in cards
    assert "best val/pixel_ap" not in cards


def test_a_mean_that_misses_a_class_is_noted(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=1)
    path = folder / "best" / "metrics.json"
    content = json.loads(path.read_text())
    content["metrics"] |= {"test/road/image_auroc": None, "val/road/image_auroc": None}
    more = {"test/image_auroc": {"low": -0.0123, "high": 0.0456}}
    content["baselines"] = [{"name": "padim", "settings": {}, "metrics": content["metrics"], "more": more}]
    path.write_text(json.dumps(content))
    page = Page(build_html_report(folder))
    cards, _, rest = page.text.partition("Best model per class")
    assert "trial t0000, mean over 3 of 4 classes" in cards
    assert "image AUROC on test" in cards
    assert cards.count("mean over 3 of 4 classes") == 2, "on val and on test"
    assert "mean over the classes" in cards, "of pixel AUROC"
    assert rest.count("mean image AUROC over 3 of 4 classes") == 3, "val, test and the baseline"
    assert "image AUROC +0.0000 on test, 95 % interval -0.0123 to +0.0456: not decided" in cards
    (gains,) = re.findall(
        r"<th scope=\"row\">PaDiM</th><td class=\"num\">(.*?)</td>", (folder / "report.html").read_text()
    )
    assert gains == ('<span class="open">+0.0000</span><br><span class="interval">-0.0123 to +0.0456</span>')


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_what_is_asked_first_stands_first(tmp_path: Path) -> None:
    html = build_html_report(write_fake_sweep(tmp_path / "fsq", num_trials=17)).read_text()
    assert headings(html)[:2] == ["In short", "Best model per class"]
    assert headings(html)[-1] == "How it was run"
    first = html.partition("</section>")[0]
    for text in ("Hardest class", "What mattered", "train.lr", "python -m hvqray.predict best IMAGES"):
        assert text in first
    assert html.index("<h3>on test") < html.index("<h3>on val"), "val chose the model"


def test_without_a_best_model_what_failed_stands_first(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "fsq", num_trials=17, with_best=False)
    assert headings(build_html_report(folder).read_text())[:2] == ["In short", "Failed trials"]


def test_trials_that_failed_alike_are_one_row(tmp_path: Path) -> None:
    page = Page(build_html_report(write_fake_sweep(tmp_path / "fsq", num_trials=17)))
    assert "t0004, t0009, t0014" in page.text
    assert page.text.count("out of memory") == 1


def test_without_scripts_charts_say_where_their_figures_are(tmp_path: Path) -> None:
    html = build_html_report(write_fake_sweep(tmp_path / "fsq", num_trials=17)).read_text()
    assert html.count("This chart is drawn by a script") == 5
    assert html.count("<summary>As a table</summary>") == 3
    assert "<noscript><style>" in html.partition("</head>")[0]
    assert html.index("Plotly.newPlot(") > html.index("<h2>Trials</h2>"), (
        "what stands above waits for no script"
    )


def test_it_does_not_say_where_files_lie(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "fsq", num_trials=5)
    path = folder / "trials.parquet"
    table = pq.read_table(path)
    info = json.loads(table.schema.metadata[b"hvqray.sweep"])
    info["command"] = (
        "python -m hvqray.sweep /home/ann/s.yaml --data '/home/ann/my parts' --set a.b=/home/ann/w.pth"
    )
    errors = [
        None if each is None else "RuntimeError: /home/ann/x/y.png: is no image"
        for each in table["error"].to_pylist()
    ]
    table = table.set_column(table.column_names.index("error"), "error", pa.array(errors, type=pa.string()))
    pq.write_table(table.replace_schema_metadata({b"hvqray.sweep": json.dumps(info)}), path)
    shutil.rmtree(folder / ".state")
    page = Page(build_html_report(folder))
    assert "python -m hvqray.sweep .../s.yaml --data '.../my parts' --set a.b=.../w.pth" in page.text
    assert "RuntimeError: .../y.png: is no image" in page.text
    assert "/home" not in page.text


def test_columns_that_say_the_same_of_all_trials_are_left_out(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "fsq", num_trials=5)

    def labels() -> list[str]:
        head = (
            build_html_report(folder).read_text().partition('<table id="trials">')[2].partition("</thead>")[0]
        )
        return re.findall(r"<button[^>]*>(.*?)</button>", head)

    assert not {"seed", "version"} & {*labels()}
    path = folder / "trials.parquet"
    table = pq.read_table(path)
    seeds = pa.array(range(table.num_rows), type=pa.int64())
    pq.write_table(table.set_column(table.column_names.index("seed"), "seed", seeds), path)
    shutil.rmtree(folder / ".state")
    assert "seed" in labels()
    assert "version" not in labels()


def test_classes_and_their_pictures_are_in_natural_order(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=1, classes=("part 10", "part 2"))
    html = build_html_report(folder).read_text()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["part 2", "part 10"]
