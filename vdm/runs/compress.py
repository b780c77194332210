"""--mode=compress and --mode=decompress: images to a compressed file, and back."""

import dataclasses
import importlib.metadata
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vdm.compression import container
from vdm.compression.chain import Chain, check_codable
from vdm.compression.codec import Codec, Coded
from vdm.compression.container import Header
from vdm.compression.image_files import (
    check_pictures,
    read_images,
    read_labels,
    to_npy,
    write_folder,
)
from vdm.compression.lattice import DamagedError
from vdm.config.compatibility import earlier_model_fields, model_fields
from vdm.config.options import CompressOptions
from vdm.data.pictures import MOST_LEVELS, as_levels
from vdm.devices import sharding
from vdm.io.atomic import write_bytes
from vdm.io.console import Progress, say
from vdm.models import interface
from vdm.models.inputs import check_codes, check_labels
from vdm.runs import states
from vdm.runs.levels import numbered_levels
from vdm.runs.run import Run
from vdm.typing import Params


class Trained(NamedTuple):
    """A run with the parameters of one of its checkpoints."""

    run: Run
    params: Params
    step: int

    @property
    def fingerprint(self) -> bytes:
        """Identifies the model that a decoder must have."""
        return container.fingerprint(self.params, model_fields(self.run.resolved))

    def has_written(self, fingerprint: bytes) -> bool:
        """Returns whether a file with this fingerprint was written by this model."""
        earlier = earlier_model_fields(self.run.resolved)
        return fingerprint == self.fingerprint or any(
            fingerprint == container.earlier_fingerprint(self.params, settings)
            for settings in earlier
        )

    def using(self, kernel: str, decoder: str) -> "Trained":
        """Returns the run with this kernel and decoder, whatever its config says."""
        changes: Any = {"reverse": kernel, "decoder_rule": decoder}
        model = dataclasses.replace(self.run.vdm, **changes)
        return self._replace(run=dataclasses.replace(self.run, model=model))

    def chain(
        self, num_steps: int, cells: int, chosen: tuple[int, ...] = (), num_devices: int = 0
    ) -> Chain:
        """Returns the model as a chain of num_steps steps, at equal times or at chosen levels.

        num_devices: the number of devices whose rounding the result must have; 0 for those of the
        run. The work is done by as many of this run's devices as divide it evenly.
        """
        mesh = self.run.mesh
        shards = num_devices or mesh.devices.size
        used = math.gcd(shards, mesh.devices.size)
        params = self.params
        if used < mesh.devices.size:
            mesh = sharding.build_mesh(used)
            params = jax.device_put(params, sharding.replicated(mesh))
        return Chain(self.run.vdm, params, mesh, num_steps, cells, shards, chosen)


class Restored(NamedTuple):
    """The content of a compressed file.

    images: the array as it was. labels: None for an unconditional model. given: the bytes that
    were used as initial bits. names: the names of the images, if they had any.
    """

    images: np.ndarray
    labels: np.ndarray | None
    given: bytes
    names: tuple[str, ...]


def pack(
    trained: Trained,
    images: np.ndarray,
    options: CompressOptions,
    *,
    labels: np.ndarray | None = None,
    given: bytes = b"",
    names: tuple[str, ...] = (),
    on_images: Callable[[int], None] = lambda done: None,
) -> tuple[bytes, Coded]:
    """Compresses images. Returns the content of the file, and how many bits it spends on what.

    Args:
        images: integer codes [N, *dims]; a last axis of size one may be missing.
        labels: [N], for a conditional model.
        given: bytes to use as initial bits; b"" for random ones.
        names: of the images.
        on_images: called with the number of images done.

    Raises:
        ValueError: the images or labels do not suit the model.
    """
    dims = trained.run.vdm.dims
    if options.kernel != "model":
        trained = trained.using(options.kernel, trained.run.vdm.decoder_rule)
    codes = check_codes(trained.run.vdm, images.reshape(_full_shape(images.shape, dims)))
    run, params = trained.run, trained.params
    check_codable(run.vdm, params)
    if labels is not None and not run.vdm.num_classes:
        raise ValueError(
            "the labels would be lost: a file stores labels only if its model is conditional on "
            "them, and this one is not; leave them out, and keep them elsewhere"
        )
    labels = check_labels(labels, len(codes), run.vdm.num_classes)
    chosen = numbered_levels(run, params, options.num_steps, run.compress_grid)
    chain = trained.chain(options.num_steps, options.cells, chosen)
    codec = Codec(chain, options.order, options.lanes, options.seed)
    coded = codec.encode(codes.astype(np.int64), labels, container.to_words(given), on_images)
    header = Header(
        fingerprint=trained.fingerprint, probe=chain.probe(),
        checksum=container.codes_checksum(images), shape=images.shape, dtype=images.dtype.str[1:],
        order=options.order, num_steps=options.num_steps, cells=options.cells, lanes=options.lanes,
        seed=options.seed, step=trained.step, ema=trained.run.options.eval.params == "ema",
        num_initial=coded.num_initial, num_given=len(given), growth=coded.growth,
        environment=environment(trained.run), names=names, kernel=trained.run.vdm.reverse,
        decoder=trained.run.vdm.decoder_rule, chosen=chosen,
    )  # fmt: skip
    return container.write(header, coded.words), coded


def unpack(
    trained: Trained,
    content: bytes,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Restored:
    """Restores what `pack` compressed. DamagedError for a file that is damaged or was written by
    another model."""
    header, words = container.read(content)
    if not trained.has_written(header.fingerprint):
        raise DamagedError(_other_model(header, trained))
    full = _full_shape(header.shape, trained.run.vdm.dims)
    if full[1:] != trained.run.vdm.dims or not (header.num_steps and header.cells and header.lanes):
        raise DamagedError("its header makes no sense")
    here = environment(trained.run).partition(";")[0]
    written_on = header.environment.partition(";")[0]
    num_devices, _, kind = written_on.partition(" x ")
    if kind != here.partition(" x ")[2] or not re.fullmatch(r"[1-9]\d{0,3}", num_devices):
        raise DamagedError(
            f"it was written on {written_on}, and this is {here}: networks round differently "
            "there; decompress it on a machine of that kind"
        )
    trained = trained.using(header.kernel, header.decoder)
    chain = trained.chain(header.num_steps, header.cells, header.chosen, int(num_devices))
    if header.probe != chain.probe():
        raise DamagedError(
            "this machine computes the model differently than the one that wrote it "
            f"({header.environment}; here {environment(trained.run)}): decompress it there"
        )
    codec = Codec(chain, header.order, header.lanes, header.seed, header.exact_draws)
    count = header.shape[0]
    try:
        codes, labels, given = codec.decode(
            container.coded_of(header, words), count, lambda done: on_images(done, count)
        )
    except MemoryError as error:
        raise DamagedError(f"its {count} images need more memory than there is") from error
    images = codes.astype(header.dtype).reshape(header.shape)
    # The checksum was taken of the array as it was read, so this checks every step in between.
    if container.codes_checksum(images) != header.checksum:
        raise DamagedError(
            f"the images are not those that were compressed: the model was computed differently "
            f"than where it was written ({header.environment}); decompress it there"
        )
    return Restored(images, labels, given.astype("<u4").tobytes()[: header.num_given], header.names)


def environment(run: Run) -> str:
    """Returns the devices, and the versions of the packages that compute."""
    devices = list(run.mesh.devices.flat)
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}" for package in ("jax", "constriction")
    )
    return f"{len(devices)} x {devices[0].device_kind}; {versions}"


def _full_shape(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape with its last axis of size one, which may be missing."""
    return (*shape, 1) if (*shape[1:], 1) == dims else shape


def _other_model(header: Header, trained: Trained) -> str:
    kind = {True: "ema", False: "raw"}
    theirs = f"{kind[header.ema]} parameters of step {header.step}"
    ours = f"{trained.run.options.eval.params} parameters of step {trained.step}"
    if theirs == ours:
        return "it was compressed by another run: give the --workdir that it was compressed with"
    return (
        f"it was compressed by other parameters ({theirs}; these are the {ours}): give the "
        "--workdir that it was compressed with, with "
        f"--config.eval.step={header.step} --config.eval.params={kind[header.ema]}"
    )


def compress(run: Run, source: str, target: str, init_from: str | None = None) -> None:
    """Compresses an .npy of codes or a folder of pictures into one file."""
    options = run.options.compress
    _check_alone()
    if Path(target).is_dir() or Path(target).suffix == ".npy":
        raise ValueError(f"--output={target} must name a file, such as images.vdm")
    if run.vdm.num_classes and not options.labels:
        raise ValueError(
            f"this model is conditional on {run.vdm.num_classes} classes: set compress.labels to "
            "an .npy of one label for each image"
        )
    num_codes = interface.num_codes(run.model) or 256
    images, names, note = read_images(Path(source), num_codes)
    if note:
        say(note)
        _check_greys(run, images, source)
    labels = read_labels(Path(options.labels)) if options.labels else None
    given = Path(options.initial_bits).read_bytes() if options.initial_bits else b""
    step, params = states.trained_params(run, init_from)
    trained = Trained(run, params, step)
    with Progress("compress", len(images), unit="image") as progress:
        content, coded = pack(
            trained, images, options,
            labels=labels, given=given, names=names, on_images=progress.update,
        )  # fmt: skip
    write_bytes(target, content)
    say(f"wrote {target}: {len(images)} images, {container.describe(content, coded, images.size)}")
    if len(content) - 4 * coded.num_given > images.nbytes:
        say(
            f"that is more than the {images.nbytes:,} bytes of the codes themselves: there are too "
            "few images to repay the initial bits, or the model does not know such images"
        )


def _check_greys(run: Run, images: np.ndarray, source: str) -> None:
    """Raises ValueError for pictures whose grey values exceed the model's codes; the message says
    how to convert them."""
    largest, num_codes = int(images.max()), interface.num_codes(run.model) or 256
    if largest < num_codes:
        return
    codes = as_levels(images, num_codes) if num_codes <= MOST_LEVELS else None
    remedy = "" if codes is None else (
        f": of an array x of the greys, save numpy.rint(x / 255 * {num_codes - 1}).astype("
        "numpy.uint8) as an .npy, and compress that"
    )  # fmt: skip
    raise ValueError(
        f"--input={source}: these pictures have greys up to {largest}, and the model's codes are "
        f"0 to {num_codes - 1}{remedy}"
    )


def decompress(run: Run, source: str, target: str, init_from: str | None = None) -> None:
    """Writes the images of a compressed file to an .npy or a folder of PNGs."""
    options = run.options.compress
    _check_alone()
    path = Path(target)
    if path.suffix not in ("", ".npy"):
        raise ValueError(f"--output={target} must be an .npy, or a folder for PNGs")
    if (path.is_dir() and (path.suffix or any(path.iterdir()))) or (
        path.is_file() and not path.suffix
    ):
        raise ValueError(f"--output={target} is there already: name a new folder, or an .npy")
    content = Path(source).read_bytes()
    try:
        header, _ = container.read(content)  # reports damage before anything is compiled
        if not path.suffix:
            check_pictures(header.shape, run.vdm)
        step, params = states.trained_params(run, init_from)
        with Progress("decompress", 1, unit="image") as progress:
            restored = unpack(Trained(run, params, step), content, progress.update)
        _write_besides(source, restored, options)
        if path.suffix:
            write_bytes(path, to_npy(restored.images))
        else:
            write_folder(path, restored.images, restored.names)
    except DamagedError as error:
        raise DamagedError(f"{source}: {error}") from error
    say(f"wrote {target}: {len(restored.images)} images, the ones that were compressed")


def _write_besides(source: str, restored: Restored, options: CompressOptions) -> None:
    """Writes the labels and initial bits of a file to the places that the config names. ValueError
    if another file is there already."""
    labels = b"" if restored.labels is None else to_npy(restored.labels)
    besides = (
        ("labels", options.labels, labels, "the labels of its images"),
        ("initial_bits", options.initial_bits, restored.given, "another file, its initial bits"),
    )
    for field, place, content, _ in besides:
        if content and place and Path(place).exists() and Path(place).read_bytes() != content:
            raise ValueError(f"compress.{field} = {place} is there already: name another file")
    for field, place, content, what in besides:
        if content and place:
            write_bytes(place, content)
        elif content:
            say(f"{source} also holds {what}: --config.compress.{field}=PATH writes that there")


def _check_alone() -> None:
    if jax.process_count() > 1:
        raise ValueError("images are coded by one process: start one, without VDM_COORDINATOR")
