"""Decompression of ROOT baskets into memory that is used again.

A basket is a TKey header followed by blocks of at most 16 MB, each with 9 bytes of its own: algorithm (2),
method (1), compressed and uncompressed length (3 + 3, little-endian); LZ4 puts a big-endian xxhash64 of the
compressed bytes before its data (ROOT: core/zip/src/RZip.cxx, core/lz4/src/ZipLZ4.cxx,
tree/tree/src/TBasket.cxx). `uproot` gives every basket fresh memory; for sensor arrays of 10 MB the kernel
then spends more time on handing out pages than the decoder on decoding.
"""

import struct
import threading
from typing import Any

import cramjam
import numpy as np
import xxhash

_KEY = struct.Struct(">ihiIhh")  # bytes with key, version, uncompressed bytes, date, bytes of the key, cycle
_LAST = struct.Struct(">i")  # fLast: end of the data, key included; the second last field of the header
_BLOCK = struct.Struct("<2sBHBHB")
_CHECKSUM = struct.Struct(">Q")
_DECODERS = {b"ZL": cramjam.zlib, b"XZ": cramjam.xz, b"ZS": cramjam.zstd}


class Scratch(threading.local):
    """Buffers of one thread, one for each name."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def get(self, name: str, size: int) -> np.ndarray:
        """Return `size` bytes, which stay valid until the next call with the same name."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size]


def read_basket(branch: Any, number: int, size: int, scratch: Scratch) -> np.ndarray:
    """Read and decompress one basket of a branch with entries of fixed length.

    Args:
        branch: The TBranch.
        number: Number of the basket.
        size: Uncompressed bytes that the entries of the basket must have.
        scratch: Where to decompress to.

    Returns:
        The data as stored, big-endian, (size,) uint8; valid until the thread reads the same branch again.

    Raises:
        ValueError: The basket is damaged or of another size.
    """
    if number >= branch.num_baskets - len(branch.embedded_baskets):  # left in the tree's header by a crash
        data = np.asarray(branch.basket(number).data)
    else:
        raw = branch.basket_chunk_cursor(number)[0].raw_data
        num_bytes, _, uncompressed, _, key_size, _ = _KEY.unpack_from(raw)
        if not _KEY.size + _LAST.size < key_size <= num_bytes <= len(raw):
            raise ValueError(f"the header of basket {number} is damaged")
        end = _LAST.unpack_from(raw, key_size - 1 - _LAST.size)[0] - key_size
        if (
            not 0 <= end <= uncompressed <= size + 4 * (size + 2)
        ):  # offsets of the entries may follow the data
            raise ValueError(f"basket {number} announces {uncompressed} bytes where its entries have {size}")
        data = raw[key_size:num_bytes]
        if len(data) != uncompressed:
            buffer = scratch.get(branch.name, uncompressed)
            _decompress(data, buffer)
            data = buffer
        data = data[:end]
    if len(data) != size:
        raise ValueError(f"basket {number} holds {len(data)} bytes where its entries have {size}")
    return data


def _decompress(data: Any, out: Any) -> None:
    """Decompress consecutive blocks until `out` is full."""
    position = filled = 0
    while filled < len(out):
        algorithm, _, low_in, high_in, low_out, high_out = _BLOCK.unpack_from(data, position)
        position += _BLOCK.size
        block = data[position : position + low_in + (high_in << 16)]
        target = out[filled : filled + low_out + (high_out << 16)]
        position, filled = position + len(block), filled + len(target)
        if algorithm == b"L4":
            (checksum,) = _CHECKSUM.unpack_from(block)
            block = block[_CHECKSUM.size :]
            if xxhash.xxh64_intdigest(block) != checksum:
                raise ValueError("a compressed block differs from its checksum")
            written = cramjam.lz4.decompress_block_into(block, target, output_len=len(target))
        elif algorithm in _DECODERS:
            written = _DECODERS[algorithm].decompress_into(block, target)
        else:
            raise ValueError(f"a block has unknown compression {algorithm!r}")
        if not written == len(target) == low_out + (high_out << 16):
            raise ValueError(
                f"a block gave {written} bytes where {low_out + (high_out << 16)} were announced"
            )
