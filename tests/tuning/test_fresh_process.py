"""A trial in a process that has trained another one before gives what it gives in a fresh process, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from hvqray.training.checkpoint import load_model

PROGRAM = """
import sys
from pathlib import Path
from hvqray.config.run_config import run_config_dict
from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.sections import RunConfig, TrainConfig
from hvqray.data import prepare
from hvqray.tuning.trial import HvqrayTrial, TrialSpec
from tiny_data import tiny_data

prepare.prepare_data = lambda config, **options: tiny_data()
shipped = dict(map_distance="local_mahalanobis", map_norm_weight=1.0, score_from="both", score_pool_size=4)
models = {
    "squad": SquadConfig(name="squad", width=16, num_residual_blocks=1, image_width=4, fsq_levels=[5, 5], **shipped),
    "hvq": HvqConfig(width=16, num_heads=2, feedforward_width=32, codebook_size=8, router="predicted", **shipped),
}
folder, *names = sys.argv[1:]
actor = None
for name in names:
    run = RunConfig(model=models[name], train=TrainConfig(epochs=2, batch_size=7))
    spec = TrialSpec(
        trial_id=name, run=run_config_dict(run), folder=str(Path(folder, name)), metric="val/image_auroc", maximize=True,
        objectives=["val/image_auroc"], cache_dir=None, workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0,
        train_storage=str(Path(folder, "train")),
    )
    if actor is None:
        actor = HvqrayTrial(spec.to_config())
    else:
        actor.reset(spec.to_config())
    while not actor.train()["done"]:
        pass
actor.stop()
"""


def test_a_used_process_gives_what_a_fresh_one_gives(tmp_path: Path) -> None:
    for name, trials in (("used", ["squad", "hvq"]), ("fresh", ["hvq"])):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / name), *trials]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    used, fresh = (load_model(tmp_path / name / "hvq") for name in ("used", "fresh"))
    assert used.metrics["metrics"] == fresh.metrics["metrics"]
    tensors = fresh.model.state_dict()
    assert any(name.startswith("error_map.") for name in tensors)
    for name, tensor in used.model.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
    for path in (tmp_path / "fresh" / "hvq" / "maps").iterdir():
        assert (tmp_path / "used" / "hvq" / "maps" / path.name).read_bytes() == path.read_bytes()
