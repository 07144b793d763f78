"""Why a file could not be written, and what to do: a full disk and a missing permission need different advice."""

import contextlib
import errno
import os
from collections.abc import Iterator

from safetensors import SafetensorError

_ADVICE = {
    errno.ENOSPC: "Free disk space, or {less_space}",
    errno.EDQUOT: "Free disk space within your quota, or {less_space}",
    errno.EROFS: "The file system is read-only: mount it for writing",
    errno.EACCES: "You have no permission to write there: change the permissions",
    errno.EPERM: "You have no permission to write there: change the permissions",
}


def advice_of(
    error: BaseException, directory: str | os.PathLike, *, less_space: str = "lower `save_total_limit`"
) -> str:
    """What to do about a write error, from the system error that it or one of its causes names.

    Args:
        error: from Python, torch or safetensors; the last two give the system error only as text, or not at all.
        directory: the directory of the file.
        less_space: how to need less space on a full disk.
    """
    cause: BaseException | None = error
    while cause is not None:
        for number, advice in _ADVICE.items():
            if getattr(cause, "errno", None) == number or os.strerror(number) in str(cause):
                return advice.format(less_space=less_space)
        cause = cause.__cause__ or cause.__context__
    is_closed = os.path.isdir(directory) and not os.access(directory, os.W_OK)
    return _ADVICE[errno.EACCES if is_closed else errno.ENOSPC].format(less_space=less_space)


@contextlib.contextmanager
def explained_write_error(
    what: str, directory: str | os.PathLike, *, less_space: str = "lower `save_total_limit`"
) -> Iterator[None]:
    """Adds to a write error in the block what was written, where, and what to do.

    Args:
        what: was written.
        directory: where.
        less_space: how to need less space on a full disk.

    Raises:
        OSError: instead of the error of Python, torch or safetensors.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk raises each of them
        raise OSError(
            f"{what} could not be written to {os.fspath(directory)}: {' '.join(str(error).split())}. "
            f"{advice_of(error, directory, less_space=less_space)}, and start the same command again"
        ) from error


def check_writable(output_dir: str | os.PathLike, *, option: str = "output_dir") -> None:
    """Creates the directory that an option names.

    Raises:
        OSError: it cannot be created; names the option and the reason.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
    except OSError as error:
        reason = "a file has this name" if isinstance(error, FileExistsError) else error.strerror
        advice = {errno.EROFS: "; it is on a read-only file system"}.get(error.errno or 0, "")
        raise type(error)(
            f"`{option}` {os.fspath(output_dir)} cannot be created: {reason}{advice}; name another one"
        ) from error
