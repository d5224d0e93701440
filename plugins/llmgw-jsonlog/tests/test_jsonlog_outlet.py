from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from llmgw_jsonlog.outlet import FileOutlet, StreamOutlet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture
def outlet(path: Path) -> Iterator[FileOutlet]:
    outlet = FileOutlet(path)
    yield outlet
    outlet.close()


async def test_a_new_file_is_its_owners_alone(outlet: FileOutlet, path: Path) -> None:
    mask = os.umask(0)
    try:
        await outlet.write(b"1\n")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"1\n"


async def test_lines_are_added_to_what_is_there(outlet: FileOutlet, path: Path) -> None:
    path.write_bytes(b"0\n")
    for line in (b"1\n", b"2\n"):
        await outlet.write(line)
    assert path.read_bytes() == b"0\n1\n2\n"


async def test_a_file_that_is_rotated_away_is_opened_anew(outlet: FileOutlet, path: Path) -> None:
    await outlet.write(b"1\n")
    old = path.rename(path.with_suffix(".1"))
    await outlet.write(b"2\n")
    assert (old.read_bytes(), path.read_bytes()) == (b"1\n", b"2\n")
    path.rename(path.with_suffix(".2"))
    path.touch()
    await outlet.write(b"3\n")
    assert path.read_bytes() == b"3\n"


async def test_a_file_that_is_emptied_in_place_goes_on_at_its_beginning(
    outlet: FileOutlet, path: Path
) -> None:
    await outlet.write(b"1\n")
    os.truncate(path, 0)
    await outlet.write(b"2\n")
    assert path.read_bytes() == b"2\n"


async def test_a_directory_that_vanishes_loses_lines_until_it_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    outlet = FileOutlet(directory / "calls.jsonl")
    await outlet.write(b"1\n")
    (directory / "calls.jsonl").unlink()
    directory.rmdir()
    with pytest.raises(FileNotFoundError):
        await outlet.write(b"2\n")
    directory.mkdir()
    await outlet.write(b"3\n")
    assert (directory / "calls.jsonl").read_bytes() == b"3\n"
    outlet.close()
    outlet.close()


async def test_a_full_disk_is_an_error() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            await StreamOutlet(descriptor).write(b"1\n")
    finally:
        os.close(descriptor)


async def test_a_line_that_was_cut_does_not_spoil_the_next(outlet: FileOutlet, path: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        await outlet.write(b"12345\n")
        with pytest.raises(OSError, match="only 4 of 7 bytes"):
            await outlet.write(b"abcdef\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    await outlet.write(b"67890\n")
    await outlet.write(b"!\n")
    assert path.read_bytes() == b"12345\nabcd\n67890\n!\n"


async def test_many_processes_share_a_file_without_mixing_lines(path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from llmgw_jsonlog.outlet import FileOutlet\n"
        "async def main():\n"
        "    outlet = FileOutlet(pathlib.Path(sys.argv[1]))\n"
        "    for _ in range(300):\n"
        "        await outlet.write(sys.argv[2].encode() * 900 + b'\\n')\n"
        "    outlet.close()\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), letter], env=environment)
        for letter in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(letter * 900 for letter in "abc" for _ in range(300))


async def test_a_slow_reader_delays_lines_but_not_the_event_loop() -> None:
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        outlet = StreamOutlet(writing)
        await outlet.write(b"x" * 4095 + b"\n")
        waiting = [asyncio.ensure_future(outlet.write(line)) for line in (b"1\n", b"2\n")]
        for _ in range(5):
            await asyncio.sleep(0)  # the loop turns
        assert not any(task.done() for task in waiting)
        assert len(os.read(reading, 4096)) == 4096
        for task, line in zip(waiting, (b"1\n", b"2\n"), strict=True):
            await task
            assert os.read(reading, 4096) == line
        outlet.close()
        os.fstat(writing)
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_reader_that_left_is_an_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(BrokenPipeError):
            await StreamOutlet(writing).write(b"1\n")
    finally:
        os.close(writing)
