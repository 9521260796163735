"""What can go wrong while weights are fetched, and the errors of disk and hub in these words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FETCH_COMMAND


class FetchError(RuntimeError):
    """The weights could not be provided. The message is a full sentence that says what to do.

    FetchError
    ├── NotInstalledError   the hub's library is not installed
    ├── OfflineError        something is missing and the network may not be used
    ├── LicenceError        the licences were not accepted
    ├── NetworkError        the hub could not be reached, broke off or failed
    ├── RepositoryError     there is no such repository, revision or file, or it is not what it should be
    ├── AccessError         the hub wants a token, or another one
    ├── DiskFullError       too little space
    └── ChecksumError       bytes arrived that are not the hub's; they were thrown away
    """


class NotInstalledError(FetchError):
    pass


class OfflineError(FetchError):
    pass


class LicenceError(FetchError):
    pass


class NetworkError(FetchError):
    pass


class RepositoryError(FetchError):
    pass


class AccessError(FetchError):
    pass


class DiskFullError(FetchError):
    pass


class ChecksumError(FetchError):
    pass


@contextmanager
def disk_errors(models_dir: Path) -> Iterator[None]:
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"The disk of {models_dir} is full; what arrived is kept. Make room and run `{FETCH_COMMAND}` again."
            ) from error
        raise FetchError(f"{error.filename or models_dir} cannot be written: {error.strerror or error}.") from error


@contextmanager
def hub_errors(name: str, revision: str) -> Iterator[None]:
    """The hub's errors as ours; errors of the disk pass."""
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise OfflineError(f"{name} cannot be fetched: HF_HUB_OFFLINE switches the network off; unset it.") from error
    except RevisionNotFoundError as error:
        raise RepositoryError(
            f"{name} has no revision {revision!r}; see its page on the hub for those it has."
        ) from error
    except GatedRepoError as error:
        raise AccessError(
            f"{name} is only for those whom its owners admit: ask for access on its page on the hub, then "
            "`hf auth login`, or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        if error.response.status_code == 404:
            raise RepositoryError(f"The hub has no repository {name}; check HF_ENDPOINT.") from error
        raise AccessError(
            f"The hub does not show {name} to you: it is gone, or needs a token (`hf auth login`, or HF_TOKEN)."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 404:
            raise RepositoryError(
                f"{name} lists a file that the hub does not have; run `{FETCH_COMMAND}` again."
            ) from error
        if status in (401, 403):
            raise AccessError(
                f"The hub refuses access to {name} (status {status}); check the token (`hf auth login`, or HF_TOKEN)."
            ) from error
        raise NetworkError(
            f"The hub failed to give {name} (status {status}). Run `{FETCH_COMMAND}` again later; what arrived is kept."
        ) from error
    except httpx2.HTTPError as error:
        raise NetworkError(
            f"{name} could not be fetched: {error or type(error).__name__}. Check the network and run "
            f"`{FETCH_COMMAND}` again; what arrived is kept."
        ) from error
    except (ValueError, KeyError, TypeError) as error:  # a login page instead of the hub, for example
        raise NetworkError(f"The answer about {name} is not the hub's; check HF_ENDPOINT and the network.") from error
