"""Stand-ins of a few images for the files of both versions of downsampled ImageNet."""

import io
import pickle
import tarfile
import zipfile

import numpy as np
from PIL import Image

from vdm.config import registry
from vdm.data.imagenet import Version

LITTLE = {"old": Version(12, 4, 0), "new": Version(20, 5, 1000)}


def codes_of(count, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def png(codes):
    buffer = io.BytesIO()
    Image.fromarray(codes).save(buffer, "PNG")
    return buffer.getvalue()


def write_pictures(folder, kind="folder", train=12, test=4, size=32):
    """The "old" version: PNGs named by their row, stored in another order."""
    folder.mkdir(exist_ok=True)
    both = codes_of(train, size), codes_of(test, size, seed=1)
    for name, codes in zip(("train", "valid"), both, strict=True):
        stem = f"{name}_{size}x{size}"
        rows = np.random.default_rng(2).permutation(len(codes))
        files = {f"{stem}/{row:05d}.png": png(codes[row]) for row in rows}
        files[f"{stem}/._00001.png"] = b"what macOS adds"
        files[f"{stem}/README.txt"] = b"no picture"
        if kind == "folder":
            (folder / stem).mkdir()
            for path, content in files.items():
                (folder / path).write_bytes(content)
        elif kind == "zip":
            with zipfile.ZipFile(folder / f"{stem}.zip", "w") as archive:
                for path, content in files.items():
                    archive.writestr(path, content)
        else:
            mode = "w:gz" if kind.endswith("gz") else "w"
            with tarfile.open(folder / f"{stem}.{kind}", mode) as archive:
                for path, content in files.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return both


def write_batches(folder, kind="npz", train=20, test=5, size=32):
    """The "new" version: batches of planes with labels 1, 2, ..."""
    folder.mkdir(exist_ok=True)
    both = codes_of(train, size), codes_of(test, size, seed=1)
    labels = np.arange(train + test) % 1000
    names = [f"train_data_batch_{number}" for number in range(1, 11)]
    rows = [*np.array_split(np.arange(train), 10), train + np.arange(test)]
    every = np.concatenate(both)
    for name, part in zip([*names, "val_data"], rows, strict=True):
        data = every[part].transpose(0, 3, 1, 2).reshape(len(part), -1)
        batch = {"data": data, "labels": labels[part] + 1, "mean": data.mean(0)}
        if kind == "npz":
            np.savez(folder / f"{name}.npz", **batch)
        else:
            batch["labels"] = batch["labels"].tolist()
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return both, labels


def load(name, data_dir, split, holdout=0):
    source = registry.SOURCES[name](data_dir=str(data_dir), holdout=holdout)
    return source, source.load(split)
