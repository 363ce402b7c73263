"""Storage under full disks, kills and concurrent writers: the old content or the new, never neither."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from assay import storage
from assay.errors import StorageError

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir")
OLD = {"a": b"old" * 100, "deep/b": b"old b"}
NEW = {"a": b"new" * 100, "deep/c": b"new c"}


class _Full:
    """Fails the k-th call of any of `CALLS` with one errno; counts them all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int, number: int = errno.ENOSPC) -> None:
        self.count, self.fail_at, self.number = 0, fail_at, number
        for name in CALLS:
            monkeypatch.setattr(storage.os, name, self._wrap(getattr(os, name)))
        exchange = storage._exchange
        monkeypatch.setattr(storage, "_exchange", self._wrap(exchange))

    def _wrap(self, call):
        def wrapped(*args, **kwargs):
            self.count += 1
            if self.count == self.fail_at:
                raise OSError(self.number, os.strerror(self.number))
            return call(*args, **kwargs)

        return wrapped


def _fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(data)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write_folder(final: Path, files: dict[str, bytes]) -> None:
    with storage.staged_folder(final) as temp:
        _fill(temp, files)


def test_file_is_replaced_and_no_temp_stays(tmp_path):
    path = tmp_path / "f"
    storage.write_atomic(path, b"one")
    storage.write_atomic(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_read_verified_gives_the_bytes_only_with_their_digest(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"data")
    digest = hashlib.sha256(b"data").hexdigest()
    assert storage.read_verified(path, digest) == b"data"
    for bit in range(32):
        changed = bytearray(b"data")
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(StorageError, match="damaged"):
            storage.read_verified(path, digest)


@pytest.mark.parametrize("kind", ["missing", "link", "pipe", "folder"])
def test_only_regular_files_are_read(tmp_path, kind):
    path, real = tmp_path / "f", tmp_path / "real"
    real.write_bytes(b"data")
    {
        "missing": lambda: None,
        "link": lambda: path.symlink_to(real),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises(StorageError):
        storage.read_regular(path)


def test_full_disk_at_every_call_of_a_file_write(tmp_path, monkeypatch):
    path = tmp_path / "f"
    outcomes, messages = [], []
    for k in range(1, 50):
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            full = _Full(patch, k)
            try:
                storage.write_atomic(path, b"new")
            except StorageError as error:
                messages.append(str(error))
                outcomes.append((path.read_bytes(), "is written" in str(error)))
        assert os.listdir(tmp_path) == ["f"]
        if full.count < k:
            break
    assert len(outcomes) == k - 1 >= 5  # open, write, fsync, replace, open the folder, fsync it
    assert all("Free some space" in message for message in messages)
    assert all(content == (b"new" if written else b"old") for content, written in outcomes)
    assert {content for content, _ in outcomes} == {b"old", b"new"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_full_disk_at_every_call_of_a_folder_publish(tmp_path, monkeypatch, can_exchange):
    final = tmp_path / "dossier"
    seen: list[tuple[dict[str, bytes], bool]] = []
    for k in range(1, 60):
        _write_folder(final, OLD)
        with monkeypatch.context() as patch:
            if not can_exchange:
                patch.setattr(storage, "_renameat2", lambda: None)
            full = _Full(patch, k)
            try:
                _write_folder(final, NEW)
                raised, written = False, True  # a failure while the previous content is removed is no failure
            except StorageError as error:
                raised, written = True, "is written" in str(error)
        storage.recover_folder(final)
        storage.clean_leftovers(tmp_path)
        seen.append((_content(final), written))
        assert os.listdir(tmp_path) == ["dossier"]
        if full.count < k:
            break
    assert not raised
    assert len(seen) >= 15
    assert all(content == (NEW if written else OLD) for content, written in seen)
    assert sum(content == OLD for content, _ in seen) >= 10


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EFBIG, errno.EDQUOT, errno.EIO])
def test_each_cause_names_a_next_step(tmp_path, monkeypatch, number):
    _Full(monkeypatch, 1, number)
    with pytest.raises(StorageError) as caught:
        storage.write_atomic(tmp_path / "f", b"new")
    assert caught.value.problems[0].next
    assert os.strerror(number) in str(caught.value)


def _stop_halfway(final: Path) -> None:
    with storage.staged_folder(final) as temp:
        _fill(temp, NEW)
        raise KeyError("stop")


def test_an_error_in_the_block_leaves_the_previous_folder(tmp_path):
    final = tmp_path / "dossier"
    _write_folder(final, OLD)
    with pytest.raises(KeyError, match="stop"):
        _stop_halfway(final)
    assert _content(final) == OLD
    assert os.listdir(tmp_path) == ["dossier"]


@pytest.mark.parametrize("make", ["link in folder", "file in the way", "link in the way", "other parent"])
def test_what_cannot_be_published_is_refused(tmp_path, make):
    temp, final = tmp_path / "temp", tmp_path / "final"
    _fill(temp, NEW)
    if make == "link in folder":
        (temp / "link").symlink_to(temp / "a")
    elif make == "file in the way":
        final.write_bytes(b"mine")
    elif make == "link in the way":
        (tmp_path / "elsewhere").mkdir()
        final.symlink_to(tmp_path / "elsewhere")
    else:
        final = tmp_path / "deeper" / "final"
        final.parent.mkdir()
    with pytest.raises(StorageError):
        storage.publish_folder(temp, final)
    assert make != "file in the way" or final.read_bytes() == b"mine"
    assert not (final / "a").exists()


def test_file_size_limit_leaves_the_old_content(tmp_path):
    code = """
    import resource, sys
    from pathlib import Path
    from assay.errors import StorageError
    from assay.storage import write_atomic
    path = Path(sys.argv[1])
    write_atomic(path, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_atomic(path, b"n" * 100_000)
    except StorageError as error:
        print(path.read_bytes().decode(), "ulimit" in str(error))
    """
    done = _python(code, tmp_path / "f")
    assert done.stdout.split() == ["old", "True"], done.stderr
    assert os.listdir(tmp_path) == ["f"]


def _python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# One process forks a child per point; the child dies by SIGKILL just before or just after its k-th system call.
KILL = """
import os, signal, sys
from pathlib import Path
from assay import storage
base, kind, exchange = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "yes"
OLD = {"a": b"old" * 100, "deep/b": b"old b"}
NEW = {"a": b"new" * 100, "deep/c": b"new c"}

def fill(final, files):
    if kind == "file":
        storage.write_atomic(final, files["a"])
        return
    with storage.staged_folder(final) as temp:
        for name, data in files.items():
            (temp / name).parent.mkdir(exist_ok=True)
            (temp / name).write_bytes(data)

def child(final, k):
    count = 0
    def wrap(call):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            count += 1
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped
    for name in ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "close"):
        setattr(os, name, wrap(getattr(os, name)))
    storage._exchange = wrap(storage._exchange)
    fill(final, NEW)

if not exchange:
    storage._renameat2 = lambda: None
for k in range(1, 400):
    final = base / f"{k:03d}" / "target"
    final.parent.mkdir()
    fill(final, OLD)
    pid = os.fork()
    if pid == 0:
        try:
            child(final, k)
        finally:
            os._exit(0)
    if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        break
print(k - 1)
"""


@pytest.mark.parametrize(("kind", "exchange"), [("file", "yes"), ("folder", "yes"), ("folder", "no")])
def test_kill_at_every_call_leaves_old_or_new(tmp_path, kind, exchange):
    done = _python(KILL, tmp_path, kind, exchange)
    assert done.returncode == 0, done.stderr
    num_kills = int(done.stdout)
    assert num_kills >= (12 if kind == "file" else 30)
    seen = []
    for k in range(1, num_kills + 1):
        final = tmp_path / f"{k:03d}" / "target"
        storage.recover_folder(final)
        seen.append(final.read_bytes() if kind == "file" else _content(final))
        storage.clean_leftovers(final.parent)
        assert [name for name in os.listdir(final.parent) if name != "target"] in ([], [".target.previous"])
    old, new = (OLD["a"], NEW["a"]) if kind == "file" else (OLD, NEW)
    assert all(content in (old, new) for content in seen)
    assert old in seen
    assert new in seen


def test_two_renames_without_recovery_would_lose_the_folder(tmp_path):
    """Negative control: in the window between the two renames the name is gone until it is recovered."""
    final, aside = tmp_path / "d", tmp_path / ".d.previous"
    _fill(aside, OLD)
    assert not final.exists()
    storage.recover_folder(final)
    assert _content(final) == OLD


def test_living_writer_is_not_cleaned_and_dead_one_is(tmp_path):
    final = tmp_path / "dossier"
    with storage.staged_folder(final) as temp:
        _fill(temp, NEW)
        assert storage.clean_leftovers(tmp_path) == ()
    assert _content(final) == NEW
    dead = tmp_path / ".dossier.tmp-0123456789abcdef"
    dead.mkdir()
    _write_folder(final, OLD)
    assert not dead.exists()


def test_two_writers_at_once_never_mix(tmp_path):
    path = tmp_path / "f"
    storage.write_atomic(path, b"0" * 4096)
    errors: list[BaseException] = []

    def work(letter: bytes) -> None:
        try:
            for _ in range(30):
                storage.write_atomic(path, letter * 4096)
                storage.clean_leftovers(tmp_path)
                assert len(set(path.read_bytes())) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == ["f"]


def test_exchange_is_used_on_linux(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has renameat2")
    _fill(tmp_path / "x", OLD)
    _fill(tmp_path / "y", NEW)
    if not storage._exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip(f"this file system cannot swap names ({os.strerror(ctypes.get_errno())})")
    assert _content(tmp_path / "x") == NEW
    assert _content(tmp_path / "y") == OLD
