import re
import resource

import numpy as np
import pytest

from vdm.io.journal import Journal

PARTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([[1.5], [np.pi]])]


def write(path, identity=("a", 1)):
    with Journal(path, {"identity": identity}) as journal:
        for part in PARTS:
            journal.append(part)


def read(path, identity=("a", 1)):
    with Journal(path, {"identity": identity}) as journal:
        return journal.parts


def test_parts_come_back_to_the_last_bit(tmp_path):
    write(tmp_path / "new" / "journal")
    for part, expected in zip(read(tmp_path / "new" / "journal"), PARTS, strict=True):
        np.testing.assert_array_equal(part, expected.ravel())


def test_another_identity_begins_anew(tmp_path):
    write(tmp_path / "journal")
    with Journal(tmp_path / "journal", {"identity": ("a", 2)}) as journal:
        assert (journal.parts, journal.dropped) == ([], len(PARTS))
    assert read(tmp_path / "journal") == []


def test_a_file_cut_short_anywhere_keeps_its_whole_parts(tmp_path):
    path = tmp_path / "journal"
    write(path)
    content = path.read_bytes()
    ends = [len(content) - (8 + 8) - (8 + 24), len(content) - (8 + 8), len(content)]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert len(read(path)) == sum(length >= end for end in ends[1:])
        with Journal(path, {"identity": ("a", 1)}) as journal:  # and is appended to
            journal.append(PARTS[1])
        np.testing.assert_array_equal(read(path)[-1], PARTS[1].ravel())


def test_a_damaged_part_and_all_after_it_are_left_out(tmp_path):
    path = tmp_path / "journal"
    write(path)
    content = bytearray(path.read_bytes())
    content[-(8 + 8) - 3] ^= 1  # in the last number of the first part
    path.write_bytes(bytes(content))
    assert read(path) == []


def test_only_one_process_at_a_time(tmp_path):
    with Journal(tmp_path / "journal", {}), pytest.raises(BlockingIOError):
        Journal(tmp_path / "journal", {})
    assert read(tmp_path / "journal") == []


def test_a_removed_journal_is_gone(tmp_path):
    with Journal(tmp_path / "journal", {}) as journal:
        journal.append(PARTS[0])
        journal.remove()
    assert not (tmp_path / "journal").exists()


RECORDS = np.zeros(3, [("data", np.uint8, (2, 2)), ("count", np.int32), ("none", np.uint8, (0, 2))])
RECORDS["data"], RECORDS["count"] = np.arange(12).reshape(3, 2, 2), [1, -2, 3]


@pytest.mark.parametrize("parts", [
    [RECORDS, RECORDS[:1]], [np.arange(5, dtype=np.uint8)], [np.arange(3.0), np.array([np.pi])]
])  # fmt: skip
def test_parts_have_the_dtype_of_their_journal(tmp_path, parts):
    path, kind = tmp_path / "journal", parts[0].dtype
    with Journal(path, {"a": 1}, kind) as journal:
        for part in parts:
            journal.append(part)
    with Journal(path, {"a": 1}, kind) as journal:
        for part, expected in zip(journal.parts, parts, strict=True):
            assert part.dtype == kind
            assert part.tobytes() == expected.tobytes()
    path.write_bytes(path.read_bytes()[:-1])  # cut short
    with Journal(path, {"a": 1}, kind) as journal:
        assert len(journal.parts) == len(parts) - 1
    with Journal(path, {"a": 1}) as journal:  # of float32, of the same identity
        assert (journal.parts, journal.dropped) == ([], len(parts) - 1)


def test_on_a_full_disk_the_error_names_the_file_and_earlier_parts_stay(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "run.partial"
    with Journal(path, {"identity": 1}) as journal:
        journal.append(PARTS[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OSError, match=f"File too large: '{re.escape(str(path))}'"):
                journal.append(np.zeros(10_000))
            journal.__exit__(None, None, None)  # what it still holds cannot be written either
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (part,) = read(path, 1)
    np.testing.assert_array_equal(part, PARTS[0].ravel())
