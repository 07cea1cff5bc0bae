"""Fetch official archives: resume what broke, check the pinned hash, only then rename."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pooch  # type: ignore[import-untyped]
import requests
import urllib3
from tqdm import tqdm  # type: ignore[import-untyped]

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.stopping import remove_when_stopped
from robustbench_lite.datasets.readers.archives import Archive, file_hash

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 3  # connections per address before the next one is tried
_TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
_BLOCK = 1 << 16
_REDIRECTS = 5
_REDIRECTED_TO = ("https",)  # tests whose server speaks http add it here


class _WrongSizeError(requests.RequestException):
    """Another number of bytes than the official file has: another file."""


def fetch(archives: Sequence[Archive], folder: Path, *, progress: bool) -> tuple[Path, ...]:
    """Bring every archive into `folder` and check its hash; what lies there already is kept.

    A file is written as `<name>.part`, continued by HTTP Range after a break, now or in a later
    run, compared with its pinned hash, and only then renamed. A lock file lets several processes
    ask at once: one downloads, the others wait.

    Args:
        archives: the files one split needs.
        folder: where they belong; created when missing.
        progress: show a bar for each download on stderr.

    Returns:
        Their paths, in order.

    Raises:
        InputError: no connection (names every file still missing, its address, and where to put it
            by hand), a wrong size or hash, a redirection elsewhere than to https, or a folder that
            cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock"):
            return tuple(_fetch_one(archive, archives, folder, progress) for archive in archives)
    except OSError as error:
        raise InputError(
            f"cannot write downloads to {folder}: {error}; choose another cache with "
            "ROBUSTBENCH_LITE_CACHE, or name a folder that holds the files with --data-dir"
        ) from error


def verify(path: Path, archive: Archive) -> None:
    """Compare a file that lies there already with the pinned hash of its archive.

    Raises:
        InputError: another hash; says expected, got, and that the file was left alone.
    """
    got = file_hash(path, archive.known_hash)
    if got != archive.known_hash:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) is not the official {archive.file_name} "
            f"({archive.size} bytes): expected {archive.known_hash}, got {got}; the file was left "
            f"as it is and not read: delete it or replace it by {archive.urls[0]}"
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_one(archive: Archive, wanted: Sequence[Archive], folder: Path, progress: bool) -> Path:
    path = folder / archive.file_name
    if path.exists():
        verify(path, archive)
        return path
    part = folder / f"{archive.file_name}.part"
    failures: list[str] = []
    for url in archive.urls:
        try:
            _retrieve(url, archive, path, part, progress)
            return path
        except (requests.RequestException, ValueError) as error:
            _LOG.info("download of %s failed: %s", url, error)
            failures.append(f"{url} ({_reason(error)})")
    missing = [a.file_name for a in wanted if not (folder / a.file_name).exists()]
    kept = f"; {part.stat().st_size} bytes are kept, run again to continue" if part.exists() else ""
    raise InputError(
        f"cannot download {archive.file_name} from {' or '.join(failures)}{kept}; without a "
        f"connection put {' and '.join(missing)} into {folder}, or into any folder given as "
        "--data-dir (data_dir= in Python)"
    )


def _retrieve(url: str, archive: Archive, path: Path, part: Path, progress: bool) -> None:
    """One address through pooch; a continued file that ends with a wrong hash starts over once."""
    for _ in range(2):
        continued = part.exists()
        try:
            pooch.retrieve(
                url,
                known_hash=archive.known_hash,
                fname=path.name,
                path=path.parent,
                downloader=partial(_download, part=part, size=archive.size, progress=progress),
            )
            return
        except requests.RequestException:
            raise
        except ValueError:  # pooch's hash mismatch; it has deleted the file
            if not continued:
                raise


def _download(
    url: str, output_file: str, _pooch: object, *, part: Path, size: int, progress: bool
) -> None:
    """Pooch downloader that finishes `part` over several connections, then moves it."""
    remove_when_stopped(output_file)  # pooch's own temporary file
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _continue_part(url, part, size, progress)
            break
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
        ) as error:
            if attempt == _ATTEMPTS:
                raise requests.ConnectionError(_reason(error)) from error
            _LOG.info("connection to %s broke (%s); continuing", url, error)
    os.replace(part, output_file)


class _Session(requests.Session):
    """Follows a redirection only where `_REDIRECTED_TO` allows it, and few of them."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = _REDIRECTS

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where a response redirects to; refused unless by https."""
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        scheme = urlsplit(urljoin(resp.url, target)).scheme
        if scheme not in _REDIRECTED_TO:
            raise requests.exceptions.InvalidSchema(
                f"it redirects to {scheme}, and only https is followed"
            )
        return target


def _continue_part(url: str, part: Path, size: int, progress: bool) -> None:
    """Append to `part` what is missing of `size` bytes, over one connection."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:  # the last run stopped before the rename
        return
    have = have if have < size else 0
    headers = {"Accept-Encoding": "identity"}  # the hash is over the bytes of the file as stored
    if have:
        headers["Range"] = f"bytes={have}-"
    with (
        _Session() as session,
        session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response,
    ):
        start, total = _content_range(response)
        if response.ok and total not in (size, None):
            raise _WrongSizeError(f"it has {total} bytes, and the official file {size}")
        response.raise_for_status()
        if start != have:  # the server ignored the Range header and sends the whole file
            have = 0
        bar = tqdm(
            desc=part.stem,
            total=size,
            initial=have,
            unit="B",
            unit_scale=True,
            disable=not progress,
        )
        with bar, part.open("ab" if have else "wb") as file:
            for block in response.raw.stream(_BLOCK, decode_content=False):
                have += len(block)
                if have > size:
                    break
                file.write(block)
                bar.update(len(block))
    if have > size:
        part.unlink()
        raise _WrongSizeError(f"it sent more than the {size} bytes of the official file")
    if have < size:
        raise requests.ConnectionError(f"connection closed after {have} of {size} bytes")


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """(first byte sent, size of the whole file or None) by the response's headers."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match:
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _reason(error: Exception) -> str:
    """The first line of what went wrong, without requests' account of its connection pool."""
    inner = error.args[0] if error.args else error
    lines = str(getattr(inner, "reason", error)).splitlines()
    return lines[0] if lines else type(error).__name__
