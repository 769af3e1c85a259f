"""The command `baseline` without a sweep, and its faults."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sweep import write_fake_sweep

from hvqray import baseline
from hvqray.baseline import main
from hvqray.command_line import run_command
from hvqray.metrics import METRIC_NAMES
from hvqray.results.history import DataRecord
from hvqray.results.store import hold_sweep


@pytest.fixture
def config(tmp_path: Path, small_images: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{root: {small_images}, image_size: 64, backbone: {{weights: random}}}}\n")
    return path


def test_of_a_configuration(
    config: Path, shared_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "baselines.json"
    assert main([str(config), "--out", str(out), "--cache-dir", str(shared_cache)]) == 0
    printed = capsys.readouterr().out
    assert "PaDiM" in printed
    assert "PatchCore" in printed
    content = json.loads(out.read_text())
    assert content["image_size"] == 64
    assert len(content["baselines"]) == 36 + 2
    chosen = [each for each in content["baselines"] if each["chosen"]]
    assert [each["name"] for each in chosen] == ["padim", "patchcore"]
    for each in content["baselines"]:
        assert any(name.startswith("test/") for name in each["metrics"]) == each["chosen"]
    for each in chosen:
        settings = [
            other for other in content["baselines"] if other["name"] == each["name"] and not other["chosen"]
        ]
        assert each["settings"].keys() == {"bolt", "cloth"}
        for class_name, setting in each["settings"].items():
            of_map = {key[4:]: value for key, value in setting.items() if key.startswith("map_")}
            of_score = {key: value for key, value in setting.items() if not key.startswith("map_")}
            for metric, part in (("image_auroc", of_score), ("pixel_aupro", of_map)):
                name = f"val/{class_name}/{metric}"
                assert each["metrics"][name] == max(other["metrics"][name] for other in settings)
                found = [other for other in settings if part.items() <= other["settings"].items()]
                assert {other["metrics"][name] for other in found} == {each["metrics"][name]}
        assert all(f"test/{metric}" in each["metrics"] for metric in METRIC_NAMES)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{config}", "--out", "x.csv"], "--out x.csv: must end in .json"),
        (["{config}", "--out", "{folder}/dir.json"], "dir.json: cannot be written (it is a folder)"),
        (["{config}", "--metric", "val/acc"], "--metric: 'val/acc' is no metric"),
        (["{config}", "--metric", "test/image_auroc"], "use 'val/image_auroc'"),
        (
            ["{config}", "--metric", "val/coookie/image_ap"],
            "--metric val/coookie/image_ap: the data have no class",
        ),
        (["{folder}", "--data", "x"], "--data, --out and --metric do not go with a sweep's folder"),
        (["{folder}", "--metric", "val/image_ap"], "--data, --out and --metric do not go with"),
        (["{folder}"], "sweep.yaml is missing"),
        (["{config}", "--data", "{folder}/a #b"], "/a #b is not a folder"),
        (["--data", "{folder}/null"], "/null is not a folder"),
        (["--data", ""], "data.root: is empty"),
        (["{folder}/nothing.yaml"], "nothing.yaml"),
    ],
)
def test_faults_in_one_line(
    config: Path,
    shared_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    (tmp_path / "dir.json").mkdir()
    given = [each.format(config=config, folder=tmp_path) for each in arguments]
    assert run_command(main, [*given, "--cache-dir", str(shared_cache)]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert told in errors[-1]
    assert errors[-1].startswith("hvqray: error: ")


@pytest.mark.parametrize("source", ["test", "none"])
def test_what_is_chosen_on_test_is_marked(
    config: Path,
    shared_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    monkeypatch.setattr(baseline, "NAMES", ("padim",))
    validation = f"weights: random}}, validation: {{from: {source}}}"
    config.write_text(config.read_text().replace("weights: random}", validation))
    out = tmp_path / "baselines.json"
    assert main([str(config), "--out", str(out), "--cache-dir", str(shared_cache)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("(selected on test)") == (2 if source == "none" else 0), "of val and of test"
    assert json.loads(out.read_text())["selected_on_test"] is (source == "none")


def test_a_sweep_that_runs_is_left_alone(
    tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    before = (folder / "best" / "metrics.json").read_bytes()
    with hold_sweep(folder):
        assert run_command(main, [str(folder), "--cache-dir", str(shared_cache)]) == 2
    assert "another process is running this sweep; wait until it ends" in capsys.readouterr().err
    assert (folder / "best" / "metrics.json").read_bytes() == before


def test_of_a_sweep_they_are_added_to_its_results(
    tmp_path: Path, config: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    shutil.copy(config, folder / "best" / "config.yaml")
    assert main([str(folder), "--cache-dir", str(shared_cache)]) == 0
    record = json.loads((folder / "best" / "metrics.json").read_text())
    assert [each["name"] for each in record["baselines"]] == ["padim", "patchcore"]
    assert capsys.readouterr().out.endswith(f"{folder / 'report.html'}\n")
    with hold_sweep(folder):  # it was let go
        pass


def test_of_sweeps_of_one_class_each_to_the_results_of_each(
    tmp_path: Path,
    config: Path,
    shared_cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baseline, "NAMES", ("padim",))
    folder = tmp_path / "parts"
    for name in ("bolt", "cloth"):
        one = write_fake_sweep(folder / f"parts-{name}", num_trials=1, classes=(name,))
        own = config.read_text().replace("data: {", f"data: {{classes: [{name}], ")
        (one / "best" / "config.yaml").write_text(own)
    write_fake_sweep(folder / "parts-wood", num_trials=1, classes=("wood",), with_best=False)
    assert main([str(folder), "--cache-dir", str(shared_cache)]) == 0
    assert capsys.readouterr().out.endswith(f"{folder / 'report.html'}\n")
    (joint,) = json.loads((folder / "metrics.json").read_text())["baselines"]
    assert joint["name"] == "padim"
    assert {"test/bolt/image_auroc", "test/cloth/image_auroc"} < joint["metrics"].keys()


IMAGES = DataRecord(["bolt", "nut"], {"train": 4, "val": 2, "test": 2}, splits="the same", fingerprint="x")


def test_another_sweep_is_held_against_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_fake_sweep(tmp_path / "one", images=IMAGES)
    other = write_fake_sweep(tmp_path / "plain", images=replace(IMAGES, fingerprint="of another backbone"))
    before = (other / "best" / "metrics.json").read_bytes()
    kept = json.loads((folder / "best" / "metrics.json").read_text()).get("baselines", [])
    assert main([str(folder), "--against", str(other)]) == 0
    printed = capsys.readouterr().out
    assert "against sweep plain: image AUROC equal" in printed
    assert printed.endswith(f"{folder / 'report.html'}\n")
    record = json.loads((folder / "best" / "metrics.json").read_text())
    assert record["baselines"][:-1] == kept
    assert record["baselines"][-1]["name"] == "sweep plain"
    assert "sweep plain (trial" in (folder / "report.html").read_text()
    assert (other / "best" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{one}", "--against", "{one}/../one"], "is the sweep itself; give another one's folder"),
        (["{one}", "--against", "{nothing}"], "sweep.yaml is missing"),
        (["{one}", "--against", "{bare}"], "bare: has no best model"),
        (["{bare}", "--against", "{one}"], "bare: has no best model"),
        (["{one}", "--against", "{others}"], "others: is on other images than"),
        (["{one}", "--against", "{bare}", "--out", "x.json"], "--data, --out and --metric do not go with"),
        (["--against", "{one}"], "--against holds one sweep against another; give both folders, OUT/NAME"),
        (["{typo}", "--against", "{one}"], "typo is no folder; give both folders"),
        (["{one}", "--against", "{bare}", "--cache-dir", "x"], "--cache-dir does not go with --against"),
    ],
)
def test_what_cannot_be_held_against_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    places = {name: tmp_path / name for name in ("one", "bare", "others", "nothing", "typo")}
    places["nothing"].mkdir()
    write_fake_sweep(places["one"], images=IMAGES)
    write_fake_sweep(places["bare"], images=IMAGES, with_best=False)
    write_fake_sweep(places["others"], images=replace(IMAGES, splits="other"))
    before = (places["one"] / "best" / "metrics.json").read_bytes()
    assert run_command(main, [each.format(**places) for each in arguments]) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert (places["one"] / "best" / "metrics.json").read_bytes() == before


def test_without_test_images(
    config: Path, small_images: Path, shared_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bolt", "cloth"):
        shutil.copytree(small_images / name / "train", tmp_path / "normal" / name / "train")
    arguments = [str(config), "--data", str(tmp_path / "normal"), "--cache-dir", str(shared_cache)]
    assert run_command(main, arguments) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("hvqray: error: data.validation.from: val has no images")
    config.write_text(
        config.read_text().replace("weights: random}", "weights: random}, validation: {from: synthetic}")
    )
    assert run_command(main, arguments) == 0
    printed = capsys.readouterr().out
    assert "on val" in printed
    assert printed.count("There is no image for test") == 2
