"""Levels of T steps chosen for a trained model, and fitted kernels: what `eval.grid`,
`compress.grid` and `sample.grid`, and `model.kernel` = "gaussian_fitted", need.

Levels of least bound and fitted kernels follow from the costs of steps on training images
(`vdm.evaluation.step_costs`), which are measured once for the parameters of a run and kept in its
workdir, in step_costs.npz.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm.config.compatibility import computed_fields
from vdm.devices import processes, sharding
from vdm.diffusion import grids
from vdm.diffusion.grids import Grid
from vdm.diffusion.least_bound import choose, fine_levels
from vdm.evaluation.step_costs import (
    Measured,
    check_choosable,
    check_steppable,
    measure,
    num_images,
    schedule_ends,
)
from vdm.io.atomic import save_npz
from vdm.io.canonical import canonical_text
from vdm.io.checksums import params_digest
from vdm.io.console import Progress, say
from vdm.models.interface import has_noise_levels
from vdm.nn.chosen_levels import ChosenLevels
from vdm.runs.run import Run
from vdm.typing import Params

FILENAME = "step_costs.npz"

VERSION = 1
"""Another one for another way to measure, so that what was kept before is not taken for it."""


def step_costs(run: Run, params: Params, stop: Callable[[], bool] = lambda: False) -> Measured:
    """Returns the costs of steps of the run's model with these parameters: those in the workdir if
    they are of this model and these data, otherwise measured now and, in a workdir, kept. Several
    processes measure together if one of them has to. stop: as of `vdm.devices.waiting.wait`.

    ValueError without the training data, unless the file there is of this model.
    """
    path, model = run.workdir / FILENAME, run.vdm
    kept = _read(run)
    try:
        split = run.source.load("train")
    except (ValueError, OSError) as error:
        if kept and kept[0] | {"data": ""} == _identity(run, params, "", kept[0].get("images")):
            return kept[1]
        raise ValueError(
            f"the costs of steps are measured on training images, which are missing: {error}"
        ) from error
    identity = _identity(run, params, split.fingerprint, num_images(model, split))
    is_kept = kept is not None and kept[0] == identity
    if kept and not processes.any_of(not is_kept):
        return kept[1]
    if kept and not is_kept:
        say(f"{path} is of other parameters or data: measuring the costs of steps again")
    with Progress("costs of steps", 1, unit="level") as progress:
        measured = measure(model, params, split, run.mesh, progress.update, stop)
    if (run.workdir / "config.json").is_file():  # otherwise it is no workdir
        try:
            save_npz(path, identity=canonical_text(identity), **measured.arrays())
        except OSError as error:
            say(f"the costs of steps are not kept: {error.strerror}: {error.filename}")
    return measured


def _identity(run: Run, params: Params, data: str, images: Any) -> dict[str, Any]:
    """Returns everything that the costs depend on. data: the fingerprint of the training split."""
    chosen_later = ("model.kernel", "model.decoder")
    computed = computed_fields(run.resolved)
    return {
        "version": VERSION,
        "params": params_digest({name: params[name] for name in ("network", "schedule")}),
        "computed": {name: v for name, v in computed.items() if name not in chosen_later},
        "data": data,
        "images": images,
    }


def _read(run: Run) -> tuple[dict[str, Any], Measured] | None:
    """Returns the kept costs with their identity; None if there are none, or they are damaged."""
    path = run.workdir / FILENAME
    try:
        with np.load(path, allow_pickle=False) as file:  # checks the checksums of its arrays
            arrays = {name: file[name] for name in file.files}
        identity = json.loads(str(arrays.pop("identity")))
        return identity, Measured.of(arrays, run.vdm)
    except FileNotFoundError:
        return None
    except Exception:  # a flipped bit may look like a password, or a compression unknown to zipfile
        say(f"{path} is damaged: measuring the costs of steps again")
    return None


def least_bound_levels(
    run: Run, params: Params, num_steps: int, stop: Callable[[], bool] = lambda: False
) -> tuple[int, ...]:
    """Returns the num_steps + 1 levels of least bound on training images, for the model's reverse
    kernel and decoder, as increasing indices into `fine_levels` between the schedule's ends.

    ValueError for a model that has no such levels, or for too many steps.
    """
    check_choosable(run.model, "the grid 'least_bound'", num_steps)
    measured = step_costs(run, params, stop)
    return choose(measured.costs(run.vdm.reverse, run.vdm.decoder_rule), num_steps)


def with_fitted(run: Run, params: Params, stop: Callable[[], bool] = lambda: False) -> Params:
    """Returns the parameters, with those of the reverse kernel added if it is fitted to data."""
    if not has_noise_levels(model := run.model) or not model.reverse.startswith("gaussian_fitted"):
        return params
    check_choosable(model, f"model.kernel = {model.reverse!r}")
    fitted = step_costs(run, params, stop).fitted(model.reverse)
    return params | {"kernel": sharding.put_everywhere(fitted, run.mesh)}


def numbered_levels(run: Run, params: Params, num_steps: int, grid: Grid) -> tuple[int, ...]:
    """Returns the levels of a grid as indices into `fine_levels`, by which a compressed file names
    them: those of least bound, or the nearest ones to another grid's; () for equal times, whose
    levels need no names. ValueError if two levels are the same."""
    if grid is grids.equal_times:
        return ()
    if grid is grids.least_bound:
        return least_bound_levels(run, params, num_steps)
    check_steppable(run.model, "a compress.grid other than 'equal_times'")
    fine = fine_levels(*schedule_ends(run.vdm, params))
    omegas = np.asarray(grid(run.vdm.schedule_fn(params), num_steps))
    indices = np.abs(fine[None, :] - omegas[:, None]).argmin(axis=1)
    if (np.diff(indices) <= 0).any():
        raise ValueError(
            f"compress.num_steps = {num_steps}: the levels of compress.grid are too close to each "
            "other; take fewer steps, or compress.grid.name = 'equal_times'"
        )
    return tuple(indices.tolist())


def on_levels(
    run: Run, params: Params, num_steps: int, grid: Grid, stop: Callable[[], bool] = lambda: False
) -> tuple[Run, Params]:
    """Returns the run and its parameters with the levels of a grid as their schedule, so that
    num_steps steps at equal times take these levels. ValueError unless they increase."""
    if grid is grids.least_bound:
        levels = list(least_bound_levels(run, params, num_steps, stop))
        omegas = fine_levels(*schedule_ends(run.vdm, params))[levels]
    else:
        omegas = np.asarray(grid(run.vdm.schedule_fn(params), num_steps))
    if omegas.shape != (num_steps + 1,) or not (np.diff(omegas) > 0).all():
        raise ValueError(
            f"the grid gives no {num_steps + 1} increasing values of omega for {num_steps} steps: "
            "take fewer steps, or another grid"
        )
    model = dataclasses.replace(run.vdm, schedule=ChosenLevels(num_steps))
    schedule = sharding.put_everywhere({"omegas": jnp.asarray(omegas)}, run.mesh)
    return dataclasses.replace(run, model=model), params | {"schedule": schedule}


def for_evaluation(
    run: Run, params: Params, num_steps: int, grid: Grid, stop: Callable[[], bool] = lambda: False
) -> tuple[Run, Params]:
    """Returns the run and its parameters as a bound of T steps is evaluated: on the levels of the
    grid, and with the parameters of a fitted kernel."""
    if not num_steps:
        return run, params
    fitted = with_fitted(run, params, stop)
    if grid is grids.equal_times:
        return run, fitted
    chosen, params = on_levels(run, params, num_steps, grid, stop)
    return chosen, fitted | {"schedule": params["schedule"]}


def for_samples(run: Run, params: Params, num_steps: int) -> tuple[Run, Params]:
    """Returns the run and its parameters as samples are drawn in num_steps steps: with the grid
    "least_bound" at equal times of those levels, which are those of the mixture kernel if the
    sampler is, and with the parameters of a fitted kernel."""
    fitted = with_fitted(run, params)
    if run.grid is not grids.least_bound:
        return run, fitted
    drawn_from = run
    if run.sampler.needs == "code_probabilities":
        changes: Any = {"reverse": "mixture"}
        drawn_from = dataclasses.replace(run, model=dataclasses.replace(run.vdm, **changes))
    chosen, params = on_levels(drawn_from, params, num_steps, run.grid)
    on_grid = dataclasses.replace(chosen, grid=grids.equal_times)
    return on_grid, fitted | {"schedule": params["schedule"]}
