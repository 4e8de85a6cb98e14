"""Keys are part of the snapshot format: these values may never change."""

import numpy as np

from silverray.shard.schema.keys import hash_text, hash_texts, partition_of


def test_golden_values() -> None:
    assert hash_text("jazz") == 4678694650079688067
    assert hash_texts(["", "jazz", "é"]).tolist() == [hash_text(""), 4678694650079688067, hash_text("é")]
    keys = np.array([0, 1, 2, 12345678901, 2**63 - 1])
    assert partition_of(keys, 64).tolist() == [0, 37, 10, 40, 61]


def test_hashes_are_non_negative_and_partitions_even() -> None:
    hashes = hash_texts([str(number) for number in range(10_000)])
    assert hashes.min() >= 0
    for keys in (hashes, np.arange(10_000)):
        counts = np.bincount(partition_of(keys, 10), minlength=10)
        assert 900 < counts.min() <= counts.max() < 1_100
