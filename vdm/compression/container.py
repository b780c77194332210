"""The file format of compressed images, `.vdm`.

    bytes   content
    4       93 56 44 4D (".VDM")
    1       the version of the format: 1, or 3 if the numbers that this adds are not all 0; in files
            of version 2, which is 3 otherwise, `codec.Codec.exact_draws` was false
    8       the first bytes of the SHA-256 of all that follows
    8       hash of the model: of its parameters and their config (`fingerprint`)
    4       `Chain.probe`: hash of what the machine computes with the model
    8       hash of the images: the first bytes of the SHA-256 of their codes as 64-bit integers
    .       numbers: images, axes of an image, each axis, index in DTYPES, index in ORDERS, T, cells
            per standard deviation, lanes, seed, step of the checkpoint, 1 for its EMA (else 0);
            random words that the stack began with; bytes that the user gave in their place, or 0;
            growth of the batches (`codec.UNIT`); sizes in bytes of the next two entries
    .       version 3: index in KERNELS, index in DECODERS, 1 for chosen levels (else 0), of which
            the first and then the T differences follow
    .       device and versions, UTF-8; in version 3 deflated with the dictionary ENVIRONMENT, which
            saves 35 of 95 bytes before the bits
    .       names of the images if they came from a folder: UTF-8, one per line, zlib
    rest    the stack of bits: 32-bit words, the top one last

Numbers are in LEB128: 7 bits in each byte, the lowest first, with the high bit set if more bytes
follow. Words are little-endian.
"""

import dataclasses
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vdm.compression.codec import Coded
from vdm.compression.lattice import DamagedError
from vdm.compression.limits import (
    DECODERS,
    KERNELS,
    MOST_CELLS,
    MOST_LANES,
    MOST_STEPS,
    ORDERS,
)
from vdm.diffusion.least_bound import FINE
from vdm.io.canonical import canonical_text
from vdm.io.checksums import params_digest
from vdm.typing import Params

MAGIC = b"\x93VDM"
VERSIONS = (1, 2, 3)
# Part of versions 2 and 3, whatever the versions of the packages are: it must not change.
ENVIRONMENT = b"1 x NVIDIA 2 x cpu; jax 0.10.2, constriction 0.5.0"
DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")


@dataclasses.dataclass(frozen=True)
class Header:
    """The fields of a file, in their order.

    Attributes:
        fingerprint, probe, checksum: hashes of 8, 4 and 8 bytes, of the model, of what its machine
            computes and of the codes.
        shape, dtype: of the array of images [N, ...]; dtype is one of DTYPES.
        num_initial: random words, as in `codec.Coded`.
        num_given: bytes that the user gave.
        growth: as in `codec.Coded`.
        ema: whether the parameters are the exponential moving average.
        names: of the images, empty unless they came from a folder.
        kernel, decoder: with which the images were coded, of KERNELS and DECODERS.
        chosen: the levels of the steps, as in `chain.Chain`; () for equal times.
        exact_draws: as in `steps.Steps`; False for files of version 2, which are not written.
    """

    fingerprint: bytes
    probe: bytes
    checksum: bytes
    shape: tuple[int, ...]
    dtype: str
    order: str
    num_steps: int
    cells: int
    lanes: int
    seed: int
    step: int
    ema: bool
    num_initial: int
    num_given: int
    growth: int
    environment: str
    names: tuple[str, ...] = ()
    kernel: str = "gaussian"
    decoder: str = "bayes"
    chosen: tuple[int, ...] = ()
    exact_draws: bool = True


def write(header: Header, words: np.ndarray) -> bytes:
    """The bytes of a file with this header and stack."""
    environment = header.environment.encode()
    names = zlib.compress("\n".join(header.names).encode(), 9) if header.names else b""
    more = [
        KERNELS.index(header.kernel), DECODERS.index(header.decoder), int(bool(header.chosen)),
        *np.diff(header.chosen, prepend=0).tolist(),
    ]  # fmt: skip
    version = 3 if any(more) else 1
    if version > 1:
        deflate = zlib.compressobj(9, wbits=-15, zdict=ENVIRONMENT)
        environment = deflate.compress(environment) + deflate.flush()
    count, *axes = header.shape
    numbers = [
        count, len(axes), *axes, DTYPES.index(header.dtype), ORDERS.index(header.order),
        header.num_steps, header.cells, header.lanes, header.seed, header.step, int(header.ema),
        header.num_initial, header.num_given, header.growth, len(environment), len(names),
    ]  # fmt: skip
    body = b"".join(
        [header.fingerprint, header.probe, header.checksum]
        + [_leb128(number) for number in (numbers + more if version > 1 else numbers)]
        + [environment, names, words.astype("<u4").tobytes()]
    )
    return MAGIC + bytes([version]) + _short_hash(body) + body


def read(content: bytes) -> tuple[Header, np.ndarray]:
    """Reads the header and the stack of a file; raises DamagedError if any byte has changed."""
    if content[:4] != MAGIC:
        raise DamagedError("it is not a file of compressed images: these begin with 93 56 44 4D")
    if len(content) < 13:
        raise DamagedError("it is cut off")
    if content[4] not in VERSIONS:
        raise DamagedError(
            f"its format has version {content[4]}, but this program reads versions "
            f"{VERSIONS[0]} to {VERSIONS[-1]}: decompress it with the program that wrote it"
        )
    body = content[13:]
    if _short_hash(body) != content[5:13]:
        raise DamagedError("it is damaged or cut off (its checksum is wrong): get it again")
    try:
        return _parse(body, content[4])
    except (IndexError, UnicodeDecodeError, zlib.error) as error:
        raise DamagedError("its header makes no sense") from error


def _parse(body: bytes, version: int) -> tuple[Header, np.ndarray]:
    numbers = _Numbers(body, 20)
    count, num_axes = next(numbers), next(numbers)
    shape = (count, *(next(numbers) for _ in range(num_axes)))
    dtype, order = DTYPES[next(numbers)], ORDERS[next(numbers)]
    num_steps, cells, lanes, seed = (next(numbers) for _ in range(4))
    step, ema, num_initial, num_given, growth = (next(numbers) for _ in range(5))
    environment_size, names_size = next(numbers), next(numbers)
    more: dict[str, Any] = {"exact_draws": version != 2}
    if version > 1:
        more |= {"kernel": KERNELS[next(numbers)], "decoder": DECODERS[next(numbers)]}
        if next(numbers):
            first, *steps = (next(numbers) for _ in range(num_steps + 1))
            more["chosen"] = tuple(itertools.accumulate(steps, initial=first))
            if not all(steps) or more["chosen"][-1] > FINE:
                raise IndexError
    at = numbers.position
    environment = body[at : at + environment_size]
    if version > 1:
        environment = zlib.decompressobj(wbits=-15, zdict=ENVIRONMENT).decompress(environment)
    at += environment_size
    names = body[at : at + names_size]
    words = body[at + names_size :]
    sizes = (
        (num_steps, MOST_STEPS), (cells, MOST_CELLS), (lanes, MOST_LANES), (seed, 2**64 - 1),
    )  # fmt: skip
    if (
        len(words) % 4
        or len(words) < 4 * num_initial + num_given
        or any(n > most for n, most in sizes)
    ):
        raise IndexError
    header = Header(
        fingerprint=body[:8], probe=body[8:12], checksum=body[12:20], shape=shape, dtype=dtype,
        order=order, num_steps=num_steps, cells=cells, lanes=lanes, seed=seed, step=step,
        ema=bool(ema), num_initial=num_initial, num_given=num_given, growth=growth,
        environment=environment.decode(),
        names=tuple(zlib.decompress(names).decode().split("\n")) if names else (), **more,
    )  # fmt: skip
    return header, np.frombuffer(words, "<u4").astype(np.uint32)


class _Numbers(Iterator[int]):
    """Reads LEB128 numbers from bytes, starting at a position."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content, self.position = content, position

    def __next__(self) -> int:
        value = shift = 0
        while True:
            byte = self._content[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7
            if shift > 63:
                raise IndexError


def _leb128(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _short_hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]


def codes_checksum(codes: np.ndarray) -> bytes:
    """The checksum of codes, which does not depend on their dtype and shape."""
    return _short_hash(np.ascontiguousarray(codes, "<i8").tobytes())


def fingerprint(params: Params, settings: Mapping[str, Any]) -> bytes:
    """The fingerprint of a model: of every parameter with its name and shape, and of the config."""
    return _short_hash((canonical_text(settings) + params_digest(params)).encode())


def earlier_fingerprint(params: Params, settings: Mapping[str, Any]) -> bytes:
    """The fingerprint that older versions wrote, which had no canonical form of the config."""
    return _short_hash((json.dumps(settings, sort_keys=True) + params_digest(params)).encode())


def to_words(given: bytes) -> np.ndarray:
    """Bytes as 32-bit words, padded with zeros."""
    return np.frombuffer(given + bytes(-len(given) % 4), "<u4").astype(np.uint32)


def coded_of(header: Header, words: np.ndarray) -> Coded:
    """The content of a file in the form that the codec takes."""
    return Coded(words, header.num_initial, -(-header.num_given // 4), header.growth)


def describe(content: bytes, coded: Coded, num_dims: int) -> str:
    """Describes the size of a file in one line; num_dims: that of all its images together."""
    dims = max(1, num_dims)
    net, initial = coded.net_bits / dims, 32 * coded.num_initial / dims
    own = 8 * len(content) - 32 * coded.num_given
    header = own / dims - net - initial
    return (
        f"{len(content):,} bytes, {own / dims:.4f} bits/dim: {net:.4f} of the images, "
        f"{initial:.4f} of initial bits, {header:.4f} of the header"
    )
