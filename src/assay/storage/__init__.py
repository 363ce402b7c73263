"""Writing so that a crash, a full disk or a kill leaves the old content or the new, never neither.

One file: temp beside it → flush → fsync → `os.replace` → fsync of the folder.
One folder: built in a hidden sibling, fsynced file by file, then swapped in by one rename.

Leftovers of killed writers are hidden, named `.<name>.tmp-<random>`, and removed by the next writer: a living writer
holds a lock on its temp, which the kernel drops when the process ends, however it ends. POSIX only; on file systems
without locks (some network mounts) nothing is cleaned.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import hmac
import io
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from assay.errors import Problem, StorageError

__all__ = [
    "Content",
    "clean_leftovers",
    "digest_file",
    "make_folder",
    "opened_regular",
    "publish_folder",
    "read_buffer",
    "read_regular",
    "read_verified",
    "recover_folder",
    "staged_folder",
    "write_atomic",
    "write_new",
]

Content = bytes | Iterable[bytes | memoryview]  # whole, or in pieces that lie apart: nothing is joined in memory

_MARK = ".tmp-"
_PREVIOUS = ".previous"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NEXT = {
    errno.ENOSPC: "Free some space, or name a folder on another disk, and run it again",
    errno.EDQUOT: "Free some of your disk quota, or name another folder, and run it again",
    errno.EFBIG: "Raise the file size limit (ulimit -f) and run it again",
    errno.EACCES: "Name a folder you may write to, or change its permissions",
    errno.EPERM: "Name a folder you may write to, or change its permissions",
    errno.EROFS: "Name a folder on a disk that is not read-only",
    errno.ENOENT: "Make the folder first, or name one that exists",
    errno.ELOOP: "Replace the symbolic link by the file itself",
}


def write_atomic(path: Path, data: Content, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace the content of `path` by `data` (bytes, or pieces of them in order), at once or not at all.

    When it returns, the new content survives a power cut (unless `durable=False`, for what can be made anew). When it
    raises, `path` holds the previous content, except where the message says "written": then only the last fsync, of
    the folder, failed. Raises StorageError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder) / "a", b"one")
    ...     (Path(folder) / "a").read_bytes()
    b'one'
    """
    path = Path(path)
    try:
        temp, descriptor = _new_temp(path, mode)
        try:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
            os.replace(temp, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temp)
            raise
        finally:
            with suppress(OSError):  # after fsync there is nothing left that a close could lose
                os.close(descriptor)
    except OSError as error:
        raise _storage_error(f"{path} cannot be written; its previous content is untouched", error) from error
    if durable:
        _fsync_parent(path)


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> bool:
    """Make `path` with `data`, whole; False when it exists already, and then it is not changed. Raises StorageError."""
    path = Path(path)
    try:
        temp, descriptor = _new_temp(path, mode)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
            os.link(temp, path)
        finally:
            with suppress(OSError):
                os.unlink(temp)
            with suppress(OSError):
                os.close(descriptor)
    except FileExistsError:
        return False
    except OSError as error:
        raise _storage_error(f"{path} cannot be written", error) from error
    _fsync_parent(path)
    return True


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of `path`, only if their SHA-256 is `sha256` (hex). What was hashed is what is returned.

    Symbolic links and special files are refused. Raises StorageError.
    """
    data = read_regular(path)
    found = hashlib.sha256(data).hexdigest()
    if not hmac.compare_digest(found, sha256):
        raise StorageError(
            Problem(f"{path} is damaged or was changed", f"SHA-256 {sha256}, not {found}", "Restore it from a copy")
        )
    return data


def read_buffer(path: Path, sha256: str, *, most: int) -> bytearray:
    """As `read_verified`, into memory that can be written to; a file of more than `most` bytes is not read at all."""
    with opened_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise StorageError(Problem(f"{path} has {size:,} bytes", f"up to {most:,}", "Restore it from a copy"))
        data = bytearray(size)
        num = file.readinto(data)
    if num != size or not hmac.compare_digest(hashlib.sha256(data).hexdigest(), sha256):
        raise StorageError(Problem(f"{path} is damaged or was changed", f"SHA-256 {sha256}", "Restore it from a copy"))
    return data


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; links, pipes and devices are refused. Raises StorageError."""
    with opened_regular(path) as file:
        return file.read()


def digest_file(path: Path) -> str:
    """SHA-256 of a regular file in hex, read in pieces: memory does not grow with the file. Raises StorageError."""
    with opened_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened_regular(path: Path) -> Iterator[io.FileIO]:
    """A regular file, open for reading; links, pipes and devices are refused. Raises StorageError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with io.FileIO(descriptor) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StorageError(Problem(f"{path} is not a regular file", "regular files"))
            yield file
    except FileNotFoundError as error:
        raise StorageError(Problem(f"{path} does not exist", next="Check the path")) from error
    except OSError as error:
        raise _storage_error(f"{path} cannot be read", error) from error


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Make a folder and its parents; fine when it is there. Raises StorageError."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise _storage_error(f"{folder} cannot be made", error) from error


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """An empty hidden folder beside `final` to build in; it becomes `final` when the block ends without an error.

    A previous `final` stays whole until that moment. After an error, or a kill, nothing of the new one is visible.
    Raises StorageError.
    """
    final = Path(final)
    make_folder(final.parent)
    recover_folder(final)
    clean_leftovers(final.parent, name=final.name)
    try:
        temp, descriptor = _new_temp(final, None)
    except OSError as error:
        raise _storage_error(f"{final} cannot be made", error) from error
    try:
        try:
            yield temp
        except OSError as error:
            raise _storage_error(f"{final} cannot be filled; what was there before is untouched", error) from error
        publish_folder(temp, final)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
        with suppress(OSError):
            os.close(descriptor)


def publish_folder(temp_folder: Path, final_folder: Path) -> None:
    """Make a finished folder visible under its final name, at once or not at all; both must have the same parent.

    Every file and folder is fsynced first. An existing `final_folder` is swapped out by one rename (Linux
    `renameat2(RENAME_EXCHANGE)`) and then removed; where the system has no such rename, it is set aside and put back
    by `recover_folder` if a crash falls between the two renames. Raises StorageError.
    """
    temp, final = Path(temp_folder), Path(final_folder)
    if temp.parent.resolve() != final.parent.resolve():
        raise StorageError(Problem(f"{temp} and {final} are in different folders", "two names in one folder"))
    try:
        if final.is_symlink() or (final.exists() and not final.is_dir()):
            raise StorageError(Problem(f"{final} exists and is not a folder", "a folder, or a name not in use"))
        _fsync_tree(temp)
        if final.exists():
            _swap(temp, final)
        else:
            os.rename(temp, final)
    except OSError as error:
        raise _storage_error(f"{final} cannot be published; what was there before is untouched", error) from error
    _fsync_parent(final)
    shutil.rmtree(temp, ignore_errors=True)  # holds the previous content now; if this fails, the next writer cleans


def recover_folder(final: Path) -> None:
    """Put a folder back that a crash between two renames left set aside; otherwise do nothing. Raises StorageError."""
    final = Path(final)
    aside = final.with_name(f".{final.name}{_PREVIOUS}")
    if not aside.is_dir():
        return
    try:
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, final)
    except OSError as error:
        raise _storage_error(f"{final} cannot be put back from {aside}", error) from error


def clean_leftovers(folder: Path, *, name: str = "") -> tuple[Path, ...]:
    """Remove temps that no living process holds, of one target `name` or of all; returns what was removed."""
    removed = []
    prefix = f".{name}{_MARK}" if name else "."
    with suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            if entry.startswith(prefix) and _MARK in entry and _remove_if_left(Path(folder) / entry):
                removed.append(Path(folder) / entry)
    return tuple(removed)


def _new_temp(target: Path, mode: int | None) -> tuple[Path, int]:
    """A new locked temp file (or folder, when `mode` is None) beside `target`, and its open descriptor."""
    while True:
        temp = target.with_name(f".{target.name}{_MARK}{secrets.token_hex(8)}")
        if mode is None:
            os.mkdir(temp)
            descriptor = os.open(temp, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        else:
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with suppress(OSError):  # no locks on this file system: then nothing is ever cleaned either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(temp):  # else a cleaner came between creation and lock
            return temp, descriptor
        os.close(descriptor)


def _write_all(descriptor: int, data: Content) -> None:
    for piece in [data] if isinstance(data, bytes) else data:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]


def _remove_if_left(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError:  # held by a living writer, or gone already
        return False
    finally:
        os.close(descriptor)
    return not os.path.lexists(path)


def _fsync_tree(folder: Path) -> None:
    for root, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = Path(root) / name
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StorageError(Problem(f"{path} is a link or a special file", "regular files and folders"))
        for name in files:
            _fsync_path(Path(root) / name)
        _fsync_path(Path(root))


def _fsync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_parent(path: Path) -> None:
    try:
        _fsync_path(path.parent)
    except OSError as error:
        raise _storage_error(f"{path} is written, but may not survive a power cut", error) from error


def _swap(temp: Path, final: Path) -> None:
    if _exchange(temp, final):
        return
    aside = final.with_name(f".{final.name}{_PREVIOUS}")
    os.rename(final, aside)
    try:
        os.rename(temp, final)
    except OSError:
        os.rename(aside, final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or file system cannot."""
    function = _renameat2()
    if function is None:
        return False
    done = function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), os.fspath(one))


def _storage_error(what: str, error: OSError) -> StorageError:
    following = _NEXT.get(error.errno or 0, "Look at the disk, then try again")
    return StorageError(Problem(f"{what} ({error.strerror or error})", next=following))
