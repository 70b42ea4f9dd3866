"""Where the files of a model lie that an id names, if SGLANG_USE_MODELSCOPE has SGLang fetch it from ModelScope.

A folder or an id comes in, a folder goes out, as SGLang 0.5.23 finds it (`arg_groups/model_path_hook.py`). It looks
before anything of ours asks for files, and goes on with the folder; so these look-ups are for what comes before or
beside a start. But before that it asks the Hugging Face hub for the config (`utils/hf_transformers/config.py`,
`_try_load_longcat_config`), so that an id needs both. Nothing is fetched here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

VARIABLE = "SGLANG_USE_MODELSCOPE"
CACHE = "MODELSCOPE_CACHE"


def is_used() -> bool:
    # the values that both of SGLang's readers take for yes
    return os.environ.get(VARIABLE, "").lower() in ("1", "true")


def cache_folder() -> Path:
    from modelscope.utils.file_utils import get_model_cache_root

    return Path(get_model_cache_root())


def kept_folder(model: str | Path, cache: str | None = None) -> Path | None:
    """The folder that SGLang serves as it is and asks nobody about, whatever revision is wanted; None if it has none.

    cache: of --download-dir.
    """
    for root in (cache_folder(), *([cache] if cache else [])):
        if (Path(root) / model).is_dir():
            return Path(root) / model
    return None


def local_folder(model: str | Path, revision: str | None = None, cache: str | None = None) -> Path | None:
    """That folder, or a snapshot, whose files SGLang compares with ModelScope's first; None if there is neither."""
    from modelscope.hub.snapshot_download import snapshot_download
    from modelscope_hub.errors import HubError

    kept = kept_folder(model, cache)
    if kept is not None:
        return kept
    where = cache or os.environ.get(CACHE)
    try:
        return Path(snapshot_download(str(model), revision=revision, cache_dir=where, local_files_only=True))
    except (HubError, ValueError):
        # nothing of it, or no id
        return None


def fetch_first(model: str | Path, revision: str | None = None) -> str:
    return f"fetch it whole: modelscope download --model {model}" + (f" --revision {revision}" if revision else "")


def why_not(chain: Iterable[BaseException], model: str | Path, revision: str | None = None) -> str | None:
    """As of `hub.why_not`; chain: an error, what it was raised from, and so on."""
    from httpx import TransportError
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from modelscope_hub.errors import HubError
    from requests import RequestException

    for error in chain:
        if isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, TransportError)):
            said = f"{model}: SGLang asks {constants.ENDPOINT} for its config before ModelScope, and does not get it"
            folder = local_folder(model, revision)
            there = f"give its folder in the id's place: {folder}"
            return f"{said}\n  remedy: {there if folder else fetch_first(model, revision) + ', and give its folder'}"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            said = f"{model} cannot be put into the cache: {error.strerror} {error.filename or ''}".rstrip()
            return f"{said}\n  remedy: free some, or make it writable, or set {CACHE} to another folder"
        if isinstance(error, (HubError, RequestException, ConnectionError)):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            said = f"{model} cannot be had from ModelScope, which {VARIABLE} has SGLang ask: {reason}"
            remedy = f"look at the id's spelling there, {fetch_first(model, revision)}"
            return f"{said}\n  remedy: {remedy}, give its folder in the id's place, or unset the variable"
    return None
