"""From the name of a checkpoint to a local file: paths, model folders, hub files, timm models, URLs."""

from pathlib import Path

from detectron2.utils.file_io import PathManager

from eva02_det.utils.errors import UserError

HUB, TIMM = "hf://", "timm/"
MODEL_FILE = "model.safetensors"  # the weights of a model folder and of timm's repositories


def find_file(source: str | Path) -> Path:
    """The local file of a checkpoint, downloaded where need be; UserError where it cannot be had.

    Args:
        source: a file; a model folder, which holds `model.safetensors`; `hf://owner/name[@revision]/file`;
            `timm/<model name>` (the file of the repository timm/<model name>); or a URL.
    """
    name = str(source)
    if name.startswith(HUB):
        return _from_hub(name, *_split(name))
    path = Path(name)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise UserError(f"folder {path} holds no {MODEL_FILE}; pass an exported model folder or the path of a file")
        return path / MODEL_FILE
    if path.is_file():
        return path
    if name.startswith(TIMM):
        return _from_hub(name, name, MODEL_FILE, None)
    if "://" in name:
        return _from_url(name)
    raise UserError(f"checkpoint {path} does not exist; correct train.init_checkpoint or the path")


def _split(name: str) -> tuple[str, str, str | None]:
    """Repository, file and revision of hf://owner/name@revision/file."""
    parts = name.removeprefix(HUB).split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise UserError(f"{name} does not name a file of a hub repository; write hf://owner/name/file")
    owner, repository, file = parts
    repository, _, revision = repository.partition("@")
    return f"{owner}/{repository}", file, revision or None


def _from_hub(name: str, repository: str, file: str, revision: str | None) -> Path:
    """A file of a hub repository: the cached one without asking the network, which compute nodes often lack."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        cached = hub.try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        return Path(hub.hf_hub_download(repository, file, revision=revision))
    except errors.LocalEntryNotFoundError as error:  # offline, or no connection
        raise UserError(_bring(name, repository, file, revision)) from error
    except errors.GatedRepoError as error:
        raise UserError(f"{name}: {repository} is gated; accept its terms on the hub and log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{name}: the hub has no repository {repository} or hides it; correct the name or log in") from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(f"{name}: {repository} has no file {file} at {revision or 'main'}; correct the name") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise UserError(f"{name} cannot be downloaded: {_first_line(error)}; try again, or pass the path of a copy") from error


def _bring(name: str, repository: str, file: str, revision: str | None) -> str:
    """What to say where a file is neither cached nor within reach."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    place = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / (revision or "<revision of main>") / file
    command = f"hf download {repository} {file}" + (f" --revision {revision}" if revision else "")
    return (
        f"{name} is not in the cache (looked for {place}) and the hub is out of reach; run `{command}` where there is a "
        f"network, with HF_HUB_CACHE={cache}, or copy the file here and pass its path"
    )


def _from_url(name: str) -> Path:
    try:
        path = Path(PathManager.get_local_path(name))
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"{name} cannot be downloaded: {_first_line(error)}; download it elsewhere and pass its path") from error
    if not path.is_file():
        raise UserError(f"{name}: nothing here reads {name.split('://', maxsplit=1)[0]}://; use https://, hf:// or a local path")
    return path


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
