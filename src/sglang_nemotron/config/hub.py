"""Where the files of a model lie that an id of the Hugging Face hub names, or in two lines why they cannot be had.

A folder or an id comes in, a folder goes out. Only huggingface_hub looks into its cache; no file is fetched here, and
nothing is known of what the files hold. Where the user has SGLang ask ModelScope instead, so does everything here.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sglang_nemotron.config import modelscope

# as transformers and huggingface_hub write it
INDEX = "model.safetensors.index.json"
# what SGLang takes of a model: weights, configs, tokenizer, template
_FETCHED = (".safetensors", ".json", ".jinja", ".txt", ".model")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)
# where a folder should be is a file
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)


def local_folder(model: str | Path, revision: str | None = None, cache: str | None = None) -> Path | None:
    """The folder itself, or of an id the cached snapshot, with whatever it holds; None if nothing of it is here.

    cache: another place than the usual one, as SGLang's --download-dir names it for weights.
    """
    if Path(model).is_dir():
        return Path(model)
    if modelscope.is_used():
        return modelscope.local_folder(model, revision, cache)
    # slow to import, and a folder needs none of it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model), revision=revision, cache_dir=cache, local_files_only=True))
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)
    except (LocalEntryNotFoundError, HFValidationError):
        # nothing of it, or no id at all: an object store, a file
        return None


def is_offline() -> bool:
    """Whether the user keeps huggingface_hub from fetching (HF_HUB_OFFLINE), which SGLang's fetching needs."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE and not modelscope.is_used()


def cache_folder() -> tuple[Path, str]:
    """Where SGLang puts what it fetches, and the variable that says so."""
    if modelscope.is_used():
        return modelscope.cache_folder(), modelscope.CACHE
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE), "HF_HUB_CACHE"


def unfetched(folder: Path | None) -> str | None:
    """What a snapshot lacks of its weights and SGLang would fetch, in a few words; None if it would fetch nothing.

    It goes by the index. Without one it takes what is there, be it half.
    """
    if folder is None:
        return "nothing of it is in the cache"
    try:
        named = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    except FileNotFoundError:
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        return None if any(file.exists() for file in weights) else "no weights are in the cache"
    except (ValueError, KeyError, TypeError):
        # a damaged one is for whoever reads headers to name
        return None
    absent = sorted(name for name in named if not (folder / name).exists())
    return f"{len(absent)} of {len(named)} files of weights are not in the cache ({absent[0]} ...)" if absent else None


def no_room(model: str, folder: Path | None, revision: str | None = None, cache: str | None = None) -> str | None:
    """Why what a snapshot lacks does not fit, in two lines; None if it does, or the hub does not say sizes.

    folder: the snapshot, as `local_folder` found it.
    """
    if modelscope.is_used():
        return None
    from httpx import HTTPError
    from huggingface_hub import HfApi, constants

    try:
        # one question, asked once: whoever fetches them tries more than once, and says what is wrong
        files = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=10).siblings or ()
    except (OSError, ValueError, HTTPError):
        return None
    fetched = (file for file in files if file.rfilename.endswith(_FETCHED))
    wanted = sum(file.size or 0 for file in fetched if folder is None or not (folder / file.rfilename).exists())
    place = Path(cache or constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(there for there in (place, *place.parents) if there.exists())).free
    if wanted <= free:
        return None
    said = f"{_size(wanted)} are to be fetched, {place} has {_size(free)} free"
    return f"no space left for {model}: {said}\n  remedy: free some, or set HF_HUB_CACHE to another disk"


def fetch_first(model: str | Path, revision: str | None = None) -> str:
    """The command that completes the cache, as a remedy."""
    if modelscope.is_used():
        return modelscope.fetch_first(model, revision)
    return f"fetch it whole: hf download {model}" + (f" --revision {revision}" if revision else "")


def config_folder(model: str | Path, revision: str | None = None) -> Path:
    """The folder that has the model's config.json; ValueError of two lines if there is none on this machine."""
    folder = local_folder(model, revision)
    if folder is not None and (folder / "config.json").is_file():
        return folder
    if folder is not None and folder == Path(model):
        raise ValueError(f"{model} has no config.json\n  remedy: give the folder of a checkpoint, or an id of the hub")
    if not is_id(model):
        raise ValueError(
            f"{model} is no folder, and no id of the hub\n  remedy: give a checkpoint's folder, or OWNER/NAME"
        )
    named = f"{model} at revision {revision}" if revision else str(model)
    raise ValueError(f"{named} is not in the cache of this machine\n  remedy: {fetch_first(model, revision)}")


def fields_of(file: Path) -> dict[str, Any]:
    """What a JSON file of a checkpoint says. ValueError of two lines where it is damaged or says something else."""
    try:
        fields = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}\n  remedy: fetch or copy it again") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{file} is no config of a model\n  remedy: give the folder of a checkpoint")
    return fields


def is_id(model: str | Path) -> bool:
    """Whether this is written as the hub's ids are, and no folder, nor served from one that ModelScope's cache has."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(str(model))
    except HFValidationError:
        return False
    return not Path(model).exists() and not (modelscope.is_used() and modelscope.kept_folder(model))


def why_not(error: BaseException, model: str | Path, revision: str | None = None) -> str | None:
    """Why a model could not be fetched, and the remedy: two lines. None if the error is about something else."""
    chain = list(_chain(error))
    if modelscope.is_used():
        return modelscope.why_not(chain, model, revision)
    from httpx import TransportError
    from huggingface_hub import constants, errors

    at = f" at revision {revision}" if revision else ""

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    def number(*numbers: int) -> OSError | None:
        return next((each for each in chain if isinstance(each, OSError) and each.errno in numbers), None)

    if has(errors.GatedRepoError):
        said = f"{model} is gated: the hub gives it to who accepted its terms"
        remedy = f"accept them at {constants.ENDPOINT}/{model}, then run `hf auth login` or set HF_TOKEN"
    elif has(errors.RevisionNotFoundError):
        said, remedy = f"{model} has no revision {revision}", f"choose one of {constants.ENDPOINT}/{model}/tree/main"
    elif has(errors.RepositoryNotFoundError):
        said = f"the hub knows no model {model}, or keeps it from you"
        remedy = "look at the name's spelling; for a private model run `hf auth login` or set HF_TOKEN"
    elif full := number(*_NO_ROOM):
        said = f"no space left for {model}" + (f" at {full.filename}" if full.filename else "")
        remedy = f"free some, or set HF_HUB_CACHE to another disk (now {constants.HF_HUB_CACHE})"
    elif kept := number(*_NO_WRITING):
        said = f"{model} cannot be put into the cache: no permission to write" + (
            f" {kept.filename}" if kept.filename else ""
        )
        remedy = f"make it writable, or set HF_HUB_CACHE to another folder (now {constants.HF_HUB_CACHE})"
    elif blocked := number(*_NO_FOLDER):
        said = f"{model} cannot be put into the cache: {blocked.filename} is no folder, or lies in none"
        remedy = f"set HF_HUB_CACHE to a folder (now {constants.HF_HUB_CACHE})"
    elif has(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) and constants.HF_HUB_OFFLINE:
        said = f"{model}{at} is not in the cache, and HF_HUB_OFFLINE is set"
        remedy = f"unset it, or with a network {fetch_first(model, revision)}"
    elif has(errors.LocalEntryNotFoundError, ConnectionError, TransportError):
        said = f"{model}{at} is not in the cache, and {constants.ENDPOINT} does not answer"
        remedy = f"with a network {fetch_first(model, revision)}"
    elif has(errors.HFValidationError):
        said, remedy = f"{model} is no folder here, and no id of the hub", "give a checkpoint's folder, or OWNER/NAME"
    else:
        return None
    return f"{said}\n  remedy: {remedy}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
