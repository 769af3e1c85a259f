"""Which Optuna sampler a sweep's `method` means, and whether it can search the sweep's space."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from hvqray.config.parameters import Choice
from hvqray.errors import InputError, did_you_mean
from hvqray.tuning.space import SearchSpace

METHODS: dict[str, type[BaseSampler]] = {
    "bayes": TPESampler,
    "random": RandomSampler,
    "grid": BruteForceSampler,
    "tpe": TPESampler,
    "gp": GPSampler,
    "cmaes": CmaEsSampler,
    "qmc": QMCSampler,
    "nsgaii": NSGAIISampler,
    "nsgaiii": NSGAIIISampler,
    "brute_force": BruteForceSampler,
}
"""W&B's three methods, and Optuna's samplers; their class names are understood as well."""

EXHAUSTIVE = ("grid", "brute_force", BruteForceSampler.__name__, GridSampler.__name__)
"""Methods that end of themselves, once they have tried everything."""

# These draw what they cannot model at random, which nobody who asks for them by name wants.
_FIXED_SPACE_ONLY = (CmaEsSampler, GPSampler, QMCSampler)
_NUMBERS_ONLY = (CmaEsSampler, QMCSampler)
_SINGLE_OBJECTIVE_ONLY = (CmaEsSampler,)


class _Exhaustive(BruteForceSampler):
    """Brute force that leaves stopping to the number of trials: the base class can stop `study.optimize` only."""

    def after_trial(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        state: optuna.trial.TrialState,
        values: Sequence[float] | None,
    ) -> None:
        pass


def make_sampler(
    method: str, seed: int, num_objectives: int, *, space: SearchSpace, num_trials: int | None = None
) -> BaseSampler:
    """The sampler that `method` names, seeded.

    Args:
        method: a key of `METHODS`, or the class name of one of its samplers.
        num_objectives: how many metrics are optimised.
        space: what is searched.
        num_trials: length of the search, where known; the random start and the populations are scaled to it.

    Raises:
        InputError: the method is unknown, or cannot search this space or this number of objectives.
    """
    if method == PartialFixedSampler.__name__:
        mend = "fix a parameter with `value`, or with --set, and name the sampler of the others"
        raise InputError(f"{method!r} is no method; {mend}", field="method")
    by_class_name = {sampler.__name__: sampler for sampler in METHODS.values()}
    by_class_name[GridSampler.__name__] = METHODS["grid"]  # its own grid knows no conditions
    sampler = METHODS.get(method) or by_class_name.get(method)
    if sampler is None:
        hint = did_you_mean(method, [*METHODS, *by_class_name])
        raise InputError(f"{method!r} is no method{hint}", field="method")
    _check_suits(method, sampler, num_objectives, space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sampler is TPESampler:
            return TPESampler(
                seed=seed,
                multivariate=True,
                # Sorting trials by their parameters looks through all of them each time, to no end where they have the same.
                group=space.is_conditional(),
                constant_liar=True,
                n_startup_trials=_startup_trials(num_trials),
            )
        if sampler is GPSampler:
            return GPSampler(seed=seed, n_startup_trials=_startup_trials(num_trials))
        if sampler is CmaEsSampler:
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if sampler is QMCSampler:
            return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        if sampler is NSGAIISampler:
            return NSGAIISampler(seed=seed, population_size=_population_size(num_trials))
        if sampler is NSGAIIISampler:
            return NSGAIIISampler(seed=seed, population_size=_population_size(num_trials))
        return _Exhaustive(seed=seed) if sampler is BruteForceSampler else RandomSampler(seed=seed)


def _startup_trials(num_trials: int | None) -> int:
    """A third of a short search is random, 10 trials (Optuna's default) of a long one."""
    return 10 if num_trials is None else min(10, max(3, num_trials // 3))


def _population_size(num_trials: int | None) -> int:
    """At least five generations of a short search, 50 individuals (Optuna's default) in a long one."""
    return 50 if num_trials is None else min(50, max(4, num_trials // 5))


def _check_suits(method: str, sampler: type[BaseSampler], num_objectives: int, space: SearchSpace) -> None:
    def unsuited(reason: str) -> InputError:
        return InputError(f"{method}: {reason}", field="method")

    searched = space.searched()
    if num_objectives > 1 and sampler in _SINGLE_OBJECTIVE_ONLY:
        raise unsuited("optimises a single metric; keep one metric, or use bayes, nsgaii or random")
    if sampler in _FIXED_SPACE_ONLY and space.is_conditional():
        raise unsuited("cannot search parameters with `when`; use bayes, nsgaii or random")
    if sampler in _NUMBERS_ONLY:
        for name, domain in searched.items():
            if isinstance(domain, Choice):
                raise unsuited(
                    f"searches ranges of numbers only, but {name} lists values; use bayes, gp or random"
                )
    if sampler is CmaEsSampler and len(searched) < 2:
        raise unsuited("needs at least two searched parameters; use bayes or random")
    if sampler is BruteForceSampler and (endless := space.endless()) is not None:
        raise unsuited(f"{endless} has infinitely many values; list them with values, or use q_uniform")
