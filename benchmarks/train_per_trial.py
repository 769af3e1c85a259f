"""What is compared with: the published loop under Ray Tune, one Ray Train start per trial.

`python -m benchmarks.train_per_trial CONFIG.yaml OUT.json` trains the HVQ-Trans of one configuration in `--trials` trials, each a
function trainable that builds a `TorchTrainer` and calls `fit()`: the only way that Ray offers to have Train inside Tune.
Splits and decoded images come from this project's cache; the backbone runs in every step.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from hvqray.tuning.ray_runtime import quieten_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="a run's configuration (YAML)")
    parser.add_argument("out", type=Path, help="what each trial's last epoch gave (JSON)")
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes per trial")
    parser.add_argument("--slots", type=int, default=1, help="trials at once")
    parser.add_argument("--cache-dir", type=Path, required=True)
    arguments = parser.parse_args()
    quieten_ray()
    import ray
    from ray import tune

    # One more than there are: a trial's driver takes a share of one, and on as many cores as workers these would wait for ever.
    ray.init(
        num_cpus=(os.cpu_count() or 1) + 1,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    settings = {
        "config": str(arguments.config.resolve()),
        "cache": str(arguments.cache_dir.resolve()),
        "workers": arguments.workers,
    }
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            tune.with_resources(_trial, {"CPU": 0.01}),
            param_space=settings | {"storage": storage},
            tune_config=tune.TuneConfig(num_samples=arguments.trials, max_concurrent_trials=arguments.slots),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    kept = ("image_auroc", "started", "ended")
    arguments.out.write_text(json.dumps([{k: r.metrics[k] for k in kept} for r in results]))


def _trial(settings: dict[str, Any]) -> None:
    """A trial's driver: starts a worker group and waits for it."""
    import ray.train
    from ray import tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trial_id = tune.get_context().get_trial_id()
    TorchTrainer(
        _worker,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings["workers"], resources_per_worker={"CPU": 1}
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{trial_id}", storage_path=settings["storage"], callbacks=[TuneReportCallback()]
        ),
    ).fit()


def _worker(settings: dict[str, Any]) -> None:
    """A worker trains the whole trial; several do the same, as only their start is of interest."""
    started = time.time()
    import ray.train
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    image_auroc = published_trial(Path(settings["config"]), Path(settings["cache"]))
    metrics = {"image_auroc": image_auroc, "started": started, "ended": time.time()}
    ray.train.report(metrics)


def published_trial(config: Path, cache: Path) -> float | None:
    """Train and evaluate after every epoch; the best image AUROC (mean over classes) on val, None where maps are not finite."""
    import numpy as np
    import torch
    from sklearn.metrics import roc_auc_score

    from benchmarks.problems import Problem
    from benchmarks.published_loop import PlainHvq
    from hvqray.config.run_config import load_run_config
    from hvqray.data.prepare import prepare_data

    run = load_run_config(config)
    data = prepare_data(run.data, cache_dir=cache)
    problem = Problem(
        "published",
        run.model,
        run.data.backbone.name,
        data.context.feature_channels,
        run.data.image_size,
        run.train.batch_size,
        num_classes=len(data.context.class_names),
        weights=run.data.backbone.weights,
    )
    loop = PlainHvq(problem, "cpu", lr=run.train.lr)
    train, val = data.splits["train"], data.splits["val"]
    rng = np.random.default_rng(0)
    best: float | None = None
    per_epoch = min(run.train.images_per_epoch or len(train), len(train))
    for _ in range(run.train.epochs):
        order = rng.permutation(len(train))[:per_epoch]
        for start in range(0, per_epoch - problem.batch_size + 1, problem.batch_size):
            rows = order[start : start + problem.batch_size]
            loop.step(torch.from_numpy(train.images(rows)), torch.from_numpy(train.class_index[rows]))
        scores_n = np.empty(len(val))
        for start in range(0, len(val), problem.batch_size):
            rows = np.arange(start, min(start + problem.batch_size, len(val)))
            scores_n[rows] = loop.predict(
                torch.from_numpy(val.images(rows)), torch.from_numpy(val.class_index[rows])
            )[1]
        if np.isfinite(scores_n).all():
            areas = [roc_auc_score(val.is_anomalous[rows], scores_n[rows]) for _, rows in val.by_class()]
            best = max(best or -math.inf, float(np.mean(areas)))
    return best


if __name__ == "__main__":
    main()
