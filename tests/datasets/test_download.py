"""Downloads from a local server: whole, resumed, broken, wrong, absent."""

import gzip
import hashlib
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import dataset_info, load_split
from robustbench_lite.datasets import loading as loading_module
from robustbench_lite.datasets.readers import download
from robustbench_lite.datasets.readers.archives import Archive
from robustbench_lite.datasets.readers.download import fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


class FileServer(ThreadingHTTPServer):
    """Serves `files`; each number in `breaks` ends one body after so many bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.ranges, self.understands_range = {}, [], [], True
        self.longest_range = None
        self.redirects, self.says_length = {}, True

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, data = self.server, self.server.files.get(self.path[1:])
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if self.path[1:] in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path[1:]])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if data is None:
            self.send_error(404)
            return
        start = int(asked[len("bytes=") : -1]) if asked and server.understands_range else 0
        body = data[start:][: server.longest_range if start else None]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.files["data.bin"] = CONTENT
        yield running
        running.shutdown()
        thread.join()


def archive_of(*urls, content=CONTENT, name="data.bin"):
    return Archive(name, urls, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_whole_file_arrives_and_a_second_call_asks_nobody(server, tmp_path):
    archive = archive_of(server.url("data.bin"))
    for _ in range(2):
        (path,) = fetch([archive], tmp_path / "new" / "cache", progress=False)
        assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert names_in(path.parent) == ["data.bin"]


def test_broken_connection_continues_where_it_broke(server, tmp_path):
    server.breaks = [100_000, 50_000]
    (path,) = fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert names_in(tmp_path) == ["data.bin"]


def test_given_up_download_continues_in_the_next_run(server, tmp_path):
    archive = archive_of(server.url("data.bin"))
    server.breaks = [70_000, 10_000, 10_000]
    with pytest.raises(InputError, match=r"90000 bytes are kept, run again to continue"):
        fetch([archive], tmp_path, progress=False)
    assert names_in(tmp_path) == ["data.bin.part"]
    server.ranges.clear()
    (path,) = fetch([archive], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=90000-"]


def test_server_that_answers_with_less_than_asked_is_asked_again(server, tmp_path):
    server.longest_range = 120_000
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:100_000])
    (path,) = fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-", "bytes=220000-"]


def test_server_without_range_sends_everything_again(server, tmp_path):
    server.understands_range = False
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    (path,) = fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_complete_part_file_is_only_checked_and_renamed(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    (path,) = fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [], "nothing was missing"


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * len(CONTENT), CONTENT + b"too long"])
def test_wrong_part_file_is_thrown_away_and_fetched_again(server, tmp_path, part):
    (tmp_path / "data.bin.part").write_bytes(part)
    (path,) = fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges[-1] is None


def test_wrong_hash_says_expected_and_got_and_keeps_nothing(server, tmp_path):
    other = CONTENT[:-1] + b"x"
    server.files["data.bin"] = other
    archive = archive_of(server.url("data.bin"))
    with pytest.raises(InputError) as caught:
        fetch([archive], tmp_path, progress=False)
    message = str(caught.value)
    assert archive.known_hash in message
    assert hashlib.sha256(other).hexdigest() in message
    assert "Deleted" in message
    assert names_in(tmp_path) == []
    assert server.ranges == [None]


@pytest.mark.parametrize("other", [CONTENT + b"more", CONTENT[:1000], b""])
def test_a_file_of_another_size_is_refused_before_it_is_read(server, tmp_path, other):
    server.files["data.bin"] = other
    with pytest.raises(InputError) as caught:
        fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    said = f"(it has {len(other)} bytes, and the official file {len(CONTENT)})"
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == []
    assert server.ranges == [None], "asked once"


def test_no_more_than_the_official_size_is_read_from_a_server_that_does_not_say_it(
    server, tmp_path
):
    server.files["data.bin"], server.says_length = CONTENT * 50, False
    with pytest.raises(InputError, match=f"it sent more than the {len(CONTENT)} bytes"):
        fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert names_in(tmp_path) == []


def test_a_file_cut_short_by_a_server_that_does_not_say_its_size_is_continued(server, tmp_path):
    server.breaks, server.says_length = [100_000], False
    (path,) = fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize("target", ["http://HOST/data.bin", "/data.bin", "file:///etc/passwd"])
def test_a_redirection_elsewhere_than_to_https_is_refused(server, tmp_path, target):
    target = target.replace("HOST", f"127.0.0.1:{server.server_port}")
    server.redirects["moved"] = target
    scheme = target.partition(":")[0] if ":" in target else "http"
    said = f"it redirects to {scheme}, and only https is followed"
    with pytest.raises(InputError, match=said) as caught:
        fetch([archive_of(server.url("moved"))], tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert server.ranges == [None], "the target was not asked"
    assert names_in(tmp_path) == []


def test_a_redirection_to_https_is_followed(server, tmp_path):
    server.redirects["moved"] = f"https://127.0.0.1:{server.server_port}/data.bin"
    with pytest.raises(InputError, match="SSL"):  # our server speaks no TLS, but was asked to
        fetch([archive_of(server.url("moved"))], tmp_path, progress=False)


def test_redirections_are_followed_a_few_times(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_REDIRECTED_TO", ("https", "http"))
    server.redirects |= {"moved": server.url("again"), "again": server.url("data.bin")}
    (path,) = fetch([archive_of(server.url("moved"))], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    server.redirects["loop"] = server.url("loop")
    with pytest.raises(InputError, match="Exceeded 5 redirects"):
        fetch([archive_of(server.url("loop"), name="other")], tmp_path, progress=False)


def test_a_download_stopped_by_a_signal_leaves_only_its_part(server, tmp_path):
    """The signal comes when everything was received and is about to get its name."""
    archive = archive_of(server.url("data.bin"))
    code = (
        "import os, signal\nfrom pathlib import Path\n"
        "from robustbench_lite.core.stopping import catch_signals\n"
        "from robustbench_lite.datasets.readers import download\n"
        "from robustbench_lite.datasets.readers.archives import Archive\n"
        "catch_signals(quiet=False)\n"
        "download.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"download.fetch([{archive!r}], Path({str(tmp_path)!r}), progress=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr.splitlines()[1:] == ["rbl: stopped by SIGTERM"]  # after pooch names the file
    assert names_in(tmp_path) == ["data.bin.part"]
    server.files.clear()
    assert fetch([archive], tmp_path, progress=False)[0].read_bytes() == CONTENT


def test_next_address_is_tried_when_one_fails(server, tmp_path):
    archive = archive_of(server.url("absent/data.bin"), server.url("data.bin"))
    (path,) = fetch([archive], tmp_path, progress=False)
    assert path.read_bytes() == CONTENT


def test_refused_request_names_status_address_and_place(server, tmp_path):
    url = server.url("absent/data.bin")
    with pytest.raises(InputError, match="404") as caught:
        fetch([archive_of(url)], tmp_path, progress=False)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gzip_files_are_stored_as_they_are(server, tmp_path):
    content = gzip.compress(b"pixels" * 100)
    server.files["x.gz"] = content
    archive = archive_of(server.url("x.gz"), content=content, name="x.gz")
    assert fetch([archive], tmp_path, progress=False)[0].read_bytes() == content


def test_placed_file_with_a_wrong_hash_is_neither_read_nor_replaced(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"placed by hand, cut short")
    with pytest.raises(InputError, match=r"expected sha256:.*got sha256:.*left as it is"):
        fetch([archive_of(server.url("data.bin"))], tmp_path, progress=False)
    assert (tmp_path / "data.bin").read_bytes() == b"placed by hand, cut short"
    assert server.ranges == []


def test_two_callers_at_once_download_once(server, tmp_path):
    archive, errors = archive_of(server.url("data.bin")), []

    def call():
        try:
            fetch([archive], tmp_path, progress=False)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert server.ranges == [None]


def test_progress_goes_to_stderr_only_when_asked(server, tmp_path, capsys):
    fetch([archive_of(server.url("data.bin"))], tmp_path / "a", progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "data.bin" in shown.err
    fetch([archive_of(server.url("data.bin"))], tmp_path / "b", progress=False)
    assert "%" not in capsys.readouterr().err


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write downloads to .*ROBUSTBENCH_LITE_CACHE"):
        fetch([archive_of("http://127.0.0.1:9/data.bin")], tmp_path / "file" / "x", progress=False)


def mnist_files():
    images = np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    image_file = gzip.compress(struct.pack(">2xBB3I", 8, 3, *images.shape) + images.tobytes())
    label_file = gzip.compress(struct.pack(">2xBBI", 8, 1, 3) + bytes([4, 5, 6]))
    names = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    return images, dict(zip(names, (image_file, label_file), strict=True))


def pin(monkeypatch, files, url):
    archives = tuple(archive_of(url(name), content=data, name=name) for name, data in files.items())
    info = replace(dataset_info("mnist"), archives={"test": archives})
    monkeypatch.setattr(loading_module, "dataset_info", lambda _: info)


def test_load_split_downloads_once_and_then_needs_neither_server_nor_archive(
    server, tmp_path, monkeypatch
):
    images, files = mnist_files()
    server.files.update(files)
    pin(monkeypatch, files, server.url)
    loaded = load_split("mnist", "test", cache_dir=tmp_path)
    assert np.array_equal(loaded.images[:, 0].numpy(), images)
    assert loaded.labels.tolist() == [4, 5, 6]
    assert loaded.source == "official archive"
    assert loaded.canonical is True
    assert sorted(path.name for path in (tmp_path / "mnist").glob("*.gz")) == sorted(files)
    for name in files:
        (tmp_path / "mnist" / name).unlink()
    server.files.clear()
    again = load_split("mnist", "test", cache_dir=tmp_path)
    assert again.content_hash == loaded.content_hash
    assert again.source == "official archive"
    assert len(server.ranges) == 2


def test_without_a_connection_one_line_says_what_to_put_where(tmp_path, monkeypatch):
    with socket.socket() as closed:  # a port nobody listens on
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    images, files = mnist_files()
    pin(monkeypatch, files, lambda name: f"http://127.0.0.1:{port}/{name}")
    with pytest.raises(InputError) as caught:
        load_split("mnist", "test", cache_dir=tmp_path)
    message = str(caught.value)
    expected = [*files, f"http://127.0.0.1:{port}/", str(tmp_path / "mnist"), "--data-dir"]
    assert all(part in message for part in expected)
    assert "\n" not in message

    for name, data in files.items():  # doing what it says works
        (tmp_path / "mnist" / name).write_bytes(data)
    assert np.array_equal(load_split("mnist", "test", cache_dir=tmp_path).images[:, 0], images)
