"""What a run tells about one epoch: the only thing that passes from training to tuning and results."""

from __future__ import annotations

from dataclasses import dataclass, field

MEAN = "mean"


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one run.

    `metrics` has flat names, null (None) where a metric is undefined: `val/image_auroc` (mean over the classes in
    which it is defined), `val/CLASS/image_auroc`, likewise the other six metrics of `hvqray.metrics.METRIC_NAMES`, and `mad`;
    `val/image_auroc.num_classes` (over how many classes the mean was taken); `train/loss` and the loss's parts
    (`train/feature_mse`, ...); `codebook/LEVEL/use`, `codebook/LEVEL/perplexity`, `codebook/LEVEL/perplexity_given_top` and, of
    one class, `codebook/LEVEL/CLASS/use` and likewise the others (a pass over val); `val/router_accuracy` and `val/CLASS/router_accuracy`.
    """

    epoch: int
    """Epochs done, from 1."""
    num_epochs: int
    metrics: dict[str, float | None]
    duration_s: float
    """Seconds since the run began, earlier attempts of a resumed run included."""
    is_last: bool = False
    """Whether the run ends here of its own accord."""
    best_epoch: int | None = None
    """Epoch whose checkpoint is kept so far."""
    selected: dict[str, float | None] = field(default_factory=dict)
    """Metrics of the epoch whose checkpoint is kept so far: what the trial is worth if it ends now."""
    note: str | None = field(default=None, compare=False)
    """A line about this run that its user is to read, in the first report after its cause."""
    # Memory is the process's matter, not the run's: shown live, stored nowhere, and no difference between two reports.
    peak_memory_bytes: int | None = field(default=None, compare=False)
    """The most that the process held resident since it began (or went on with) this run, mapped files included; of several
    workers the largest. None where the system does not tell."""
    peak_gpu_bytes: int | None = field(default=None, compare=False)
    """The same of what its allocator reserved on the GPU, without the CUDA context; None without a GPU."""
    gpu_limit_bytes: int | None = field(default=None, compare=False)
    """What it may reserve there; None where the GPU is not shared."""


def split_metric_name(name: str) -> tuple[str, str, str]:
    """`(split, class_name, metric)` of a flat metric name.

    >>> split_metric_name("val/image_auroc"), split_metric_name("val/cookie/pixel_ap")
    (('val', 'mean', 'image_auroc'), ('val', 'cookie', 'pixel_ap'))
    >>> split_metric_name("codebook/q0/use"), split_metric_name("codebook/q0/cookie/use")
    (('val', 'mean', 'codebook/q0/use'), ('val', 'cookie', 'codebook/q0/use'))
    """
    split, _, rest = name.partition("/")
    if split == "codebook":
        level, _, health = rest.partition("/")
        class_name, slash, health = health.rpartition("/")
        return "val", class_name if slash else MEAN, f"codebook/{level}/{health}"
    class_name, slash, metric = rest.rpartition("/")
    return (split, class_name, metric) if slash else (split, MEAN, rest)
