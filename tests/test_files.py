"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gqn_rl.config import UserError
from gqn_rl.files import atomic_path, read_json, strangers, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def half_a_write() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        half_a_write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left, being_written = (tmp_path / f".a.txt.{process}.tmp.txt" for process in (killed.pid, os.getppid()))
    for path in (left, being_written):
        path.touch()
    write_text(tmp_path / "a.txt", "new")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.txt", being_written])
    assert strangers(tmp_path, ()) == ["a.txt"]
    assert strangers(tmp_path, ("a.txt",)) == strangers(tmp_path / "none", ()) == []


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no space left to write .*a\.txt"), atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_json_round_trip_and_corruption(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "deep" / "a.json") == {"x": [1, 2.5, None]}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json is corrupt"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="cannot read"):
        read_json(tmp_path / "c.json")
