"""An array of an .npz that stays on the disk: mapped, not read.

`np.load` reads an array of an .npz as a whole. But `np.savez` stores arrays uncompressed, so the
bytes lie in the file as they are in memory, and can be mapped there. A compressed array is unpacked
once to an .npy file in the cache, and that is mapped.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.storage import write_atomically
from robustbench_lite.datasets.readers.decoded_cache import file_identity
from robustbench_lite.datasets.readers.npz import one_line_errors

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20  # bytes read at once
_LENGTHS_AT, _NAME_AT = 26, 30  # in a local file header, APPNOTE.TXT of PKWARE, 4.3.7
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def map_array(path: Path, name: str, *, cache: Path) -> NDArray[Any]:
    """Map one array of an .npz, read-only, after reading it once for its checksum (CRC-32).

    Args:
        path: of the .npz.
        name: of the array in it.
        cache: folder for what has to be unpacked; as large as the array.

    Returns:
        The array, on the disk; an element is read when it is used.

    Raises:
        InputError: a damaged file, pickled objects, no such array, no room to unpack it.
    """
    with one_line_errors(path), zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type == zipfile.ZIP_STORED:
            with archive.open(member) as stored:
                while stored.read(_CHUNK):  # raises at the end where the checksum differs
                    pass
            return _mapped(path, _begin(path, member), member.file_size)
        unpacked = _place(path, name, cache)
        if not _is_whole(unpacked, member):
            _LOG.warning(
                "%s is compressed: unpacking %s once to %s (%d MB)",
                *(path, name, unpacked, member.file_size >> 20),
            )
            with archive.open(member) as packed:

                def write(temporary: Path) -> None:
                    with temporary.open("wb") as file:
                        shutil.copyfileobj(packed, file, _CHUNK)

                write_atomically(unpacked, write)
        return _mapped(unpacked, 0, member.file_size)


def _begin(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: after its local header, name and extra field."""
    with path.open("rb") as file:
        file.seek(member.header_offset + _LENGTHS_AT)
        name, extra = struct.unpack("<HH", file.read(4))
    return int(member.header_offset + _NAME_AT + name + extra)


def _mapped(path: Path, begin: int, size: int) -> NDArray[Any]:
    """The .npy of `size` bytes that begins there in a file."""
    with path.open("rb") as file:
        file.seek(begin)
        shape, fortran_order, dtype = _read_header(file)
        data = file.tell()
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be mapped")
    if data - begin + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array of shape {shape} has another size than {size} bytes")
    order: Literal["F", "C"] = "F" if fortran_order else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=data, shape=shape, order=order)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the .npy format is none of plain arrays")
    return _HEADERS[version](file)


def _place(path: Path, name: str, cache: Path) -> Path:
    """Where an array is unpacked to: another file, or another state of it, has another place."""
    key = hashlib.sha256("\n".join([*file_identity([path]), name]).encode()).hexdigest()[:20]
    return cache / "unpacked" / f"{path.stem}-{name}-{key}.npy"


def _is_whole(unpacked: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a file holds a member's bytes, by the size and the CRC-32 that the .npz states."""
    if not unpacked.is_file() or unpacked.stat().st_size != member.file_size:
        return False
    checksum = 0
    with unpacked.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == member.CRC
