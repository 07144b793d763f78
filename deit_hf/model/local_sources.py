"""What can be loaded without a network, for the error when the Hub cannot be reached."""

import re

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound, LocalEntryNotFoundError, OfflineModeIsEnabled

MAX_NAMES = 5
_UNREACHABLE = re.compile(
    r"couldn't connect|connection error|couldn't reach|check your (internet )?connection", re.IGNORECASE
)


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or the error that caused it, says that the Hub cannot be reached."""
    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
            return True
        if _UNREACHABLE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def unreachable_hub(source: str) -> OSError:
    """The error for a model that is not on this machine; names what can be used instead."""
    return OSError(
        f"`{source}` is not on this machine, and the Hub cannot be reached; check the name, connect to the network, "
        f"or name a directory with a saved model, a file of weights as timm:NAME@FILE, or {_cached()}; a student can "
        "also start from scratch with --variant"
    )


def _cached() -> str:
    """The models in the cache of the Hub, in words."""
    try:
        names = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        names = []
    if not names:
        return "a model that was downloaded before (none so far)"
    more = ", ..." if len(names) > MAX_NAMES else ""
    return f"a model that was downloaded before ({', '.join(names[:MAX_NAMES])}{more})"
