"""An independent writer and reader of PNGs, to check how PIL reads samples."""

import struct
import zlib

import numpy as np

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def write(path, samples, depth, colour, palette=None, transparency=None):
    """A PNG of samples [H, W, C] with `depth` bits; palette [n, 3]; transparency: bytes of tRNS."""
    height, width, channels = samples.shape
    assert channels == CHANNELS[colour]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        bits = (samples.reshape(height, -1, 1) >> np.arange(depth)[::-1]) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    if transparency is not None:
        chunks.append((b"tRNS", transparency))
    chunks.append((b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, [*chunks, (b"IEND", b"")])))


def _chunk(chunk):
    kind, content = chunk
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def read(path):
    """Reads a PNG without interlacing: (samples [H, W, C], depth, colour type)."""
    content, at, data = path.read_bytes(), 8, b""
    while at < len(content):
        (size,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", content[at + 8 : at + 8 + size])
        if kind == b"IDAT":
            data += content[at + 8 : at + 8 + size]
        at += 12 + size
    width, height, depth, colour, *_, interlaced = header
    assert not interlaced
    channels = CHANNELS[colour]
    stride, step = -(-width * channels * depth // 8), max(1, channels * depth // 8)
    data, above = zlib.decompress(data), bytes(stride)
    lines = []
    for row in range(height):
        kind, *line = data[row * (stride + 1) : (row + 1) * (stride + 1)]
        for i in range(stride):
            left, up = line[i - step] if i >= step else 0, above[i]
            corner = above[i - step] if i >= step else 0
            paeth = min((left, up, corner), key=lambda one: abs(left + up - corner - one))
            line[i] = (line[i] + (0, left, up, (left + up) // 2, paeth)[kind]) % 256
        above = line
        lines.append(line)
    lines = np.array(lines, np.uint8)
    if depth == 16:
        samples = lines.reshape(height, -1, 2) @ np.array([256, 1])
    else:
        bits = np.unpackbits(lines, axis=1)[:, : width * channels * depth]
        samples = bits.reshape(height, -1, depth) @ (1 << np.arange(depth)[::-1])
    return samples.reshape(height, width, channels), depth, colour
