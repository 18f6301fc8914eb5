"""Uploading an export to the Hugging Face hub, as a repository that holds its files and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swiftalign.problems import ExportError, SwiftalignError, names

_COMMIT = "Written by swiftalign export"
_LOG_IN = "log in with 'hf auth login', or set HF_TOKEN to a token with the right to write"


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, as it is before an upload.

    Attributes:
        hub_id: its id, with the owner.
        exists: whether it is there already.
        private: whether only its owner can see it; of one that is not there yet, what was asked for.
        files: the files in it, apart from git's own.
    """

    hub_id: str
    exists: bool
    private: bool
    files: tuple[str, ...] = ()


def find_repository(name: str, *, public: bool = False) -> Repository:
    """What is on the hub under a name: asked before a checkpoint is merged, so that no time is lost.

    Args:
        name: ``OWNER/NAME``; without an owner, the token's user.
        public: whether everybody may see what is uploaded.

    Raises:
        SwiftalignError: this is no name for a repository; there is no token, or it is not accepted; the owner is
            another; the hub can't be reached; or there is a public repository, and ``public`` was not asked for.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in __all__

    try:
        validate_repo_id(name)
    except HFValidationError:
        message = f"--push {name}: not a name that the Hugging Face hub can have"
        hint = "give OWNER/NAME with letters, digits and single - _ . between them, e.g. --push my-name/stage4"
        raise SwiftalignError(message, hint) from None
    api = HfApi()
    with _told(name):
        user = api.whoami()
        owners = [user["name"], *(each["name"] for each in user.get("orgs", []))]
        hub_id = name if "/" in name else f"{user['name']}/{name}"
        if (owner := hub_id.partition("/")[0]) not in owners:
            message = f"--push {hub_id}: the token is of {user['name']}, who may not write for {owner}"
            raise SwiftalignError(message, f"name one of {', '.join(owners)}, or use a token of {owner}")
        try:
            info = api.model_info(hub_id, timeout=20)
        except RepositoryNotFoundError:
            return Repository(hub_id, exists=False, private=not public)
        if not info.private and not public:
            hint = "pass --public if everybody may see the upload, or name another repository"
            raise SwiftalignError(f"--push {hub_id}: this repository is public", hint)
        files = tuple(each.rfilename for each in info.siblings or () if not each.rfilename.startswith(".git"))
        return Repository(hub_id, exists=True, private=bool(info.private), files=files)


def push_folder(folder: Path, repository: Repository) -> str:
    """Upload a folder's files in one commit, which removes all others, and compare what is there then.

    Returns:
        The address of the repository.

    Raises:
        ExportError: it was not uploaded, or not as it is here.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api, hub_id = HfApi(), repository.hub_id
    try:
        with _told(hub_id):
            if not repository.exists:
                api.create_repo(hub_id, private=repository.private)
            # The commit removes what matches the pattern and is not in the folder; .gitattributes stays.
            api.upload_folder(repo_id=hub_id, folder_path=folder, delete_patterns="*", commit_message=_COMMIT)
            items = api.list_repo_tree(hub_id, recursive=True)
            there = {item.path: item.size for item in items if isinstance(item, RepoFile)}
    except SwiftalignError as error:
        hint = f"{folder} is written; to try the upload alone: hf upload {hub_id} {folder}"
        raise ExportError(f"not uploaded: {error.message}", f"{error.hint}\n{hint}" if error.hint else hint) from None
    there.pop(".gitattributes", None)
    here = {file.name: file.stat().st_size for file in folder.iterdir()}
    if others := sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key)):
        message = f"{hub_id} does not hold what {folder} holds: {names(others)}"
        raise ExportError(message, "look whether somebody else writes to the repository, and upload it again")
    return f"{api.endpoint}/{hub_id}"


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in words how a call of the hub failed."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise SwiftalignError("there is no token for the Hugging Face hub here", _LOG_IN) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise SwiftalignError("the Hugging Face hub does not accept the token", _LOG_IN) from None
        if status == 403:
            raise SwiftalignError(f"the token has no right to write to {name}", _LOG_IN) from None
        said = error.server_message or error.response.reason_phrase
        raise SwiftalignError(f"the hub answered {status} about {name}: {said}", "try again later") from None
    except (httpx.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SwiftalignError(f"the Hugging Face hub can't be reached: {reason}", "check the network") from None
    except (ValueError, RuntimeError) as error:
        raise SwiftalignError(f"the hub refuses the upload: {' '.join(str(error).split())[:400]}") from None
