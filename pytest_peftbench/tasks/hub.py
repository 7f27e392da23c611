"""Where models and data sets come from, a local folder or the hub, and what is said when one is missing.

With `--peft-models` and `--peft-data` nothing is ever asked of the hub. Every id has a folder there, named like the
last part of the id: `openai/gsm8k` is `gsm8k`. Without them the hub's own cache and `HF_HUB_OFFLINE` hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_peftbench.results.files import InputError, require_plain
from pytest_peftbench.results.words import first_line
from pytest_peftbench.tasks.config import TINY, Place

Kind = Literal["model", "data set"]
_OPTIONS: dict[Kind, str] = {"model": "--peft-models", "data set": "--peft-data"}
# A folder that holds none of them is no model.
_MODEL_FILES = ("config.json", "model_index.json")


@dataclass(frozen=True)
class Source:
    """A model or a data set, by its id; folder: where it lies, None for the hub."""

    kind: Kind
    id: str
    folder: Path | None

    @property
    def path(self) -> str:
        """What `from_pretrained` and `load_dataset` take."""
        return self.id if self.folder is None else str(self.folder)

    def __str__(self) -> str:
        return f"{self.kind} {self.id}" + (f" ({self.folder})" if self.folder and str(self.folder) != self.id else "")


def model_source(place: Place, model_id: str, embedded: Path) -> Source:
    """A model: `embedded` for "tiny", else of the folder that it names itself, of `--peft-models`, or of the hub."""
    return Source("model", TINY, embedded) if model_id == TINY else _source("model", model_id, place.models)


def data_source(place: Place, dataset_id: str) -> Source:
    """A data set, from the folder that it names itself, from `--peft-data`, or from the hub."""
    return _source("data set", dataset_id, place.data)


def embedded_data(dataset_id: str, folder: Path) -> Source:
    """A data set that comes with the package."""
    return Source("data set", dataset_id, folder)


def _source(kind: Kind, name: str, root: Path | None) -> Source:
    with suppress(OSError):  # of a name that is too long for a folder
        if Path(name).is_dir():
            return Source(kind, name, Path(name))
    return Source(kind, name, None if root is None else root / Path(name).name)


def require(*sources: Source) -> None:
    """Raise InputError, before anything is loaded, for the first source that is not there or that nobody may have."""
    for source in sources:
        with _worded(source):
            if source.folder is None:
                _require_on_hub(source)
            else:
                _require_folder(source, source.folder)


def _require_folder(source: Source, folder: Path) -> None:
    if not folder.is_dir():
        beside = (
            sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        )
        raise InputError(
            f"{source}: no such folder; {_OPTIONS[source.kind]} needs one with the last part of the id as its name, "
            f"and has {', '.join(beside) or 'none'}"
        )
    if source.kind == "model" and not any((folder / name).is_file() for name in _MODEL_FILES):
        raise InputError(f"{source}: holds no {' or '.join(_MODEL_FILES)}; save the model there with save_pretrained")
    for path in folder.rglob("*"):
        if not path.is_dir():
            require_plain(path)


def _require_on_hub(source: Source) -> None:
    from huggingface_hub import HfApi

    if _offline():
        if source.kind == "model" and not _cached(source.id):
            raise InputError(f"{source}: not in the hub's cache, and HF_HUB_OFFLINE is set; {_way_out(source)}")
        return  # loading a data set asks for nothing but its own cache
    try:
        HfApi().auth_check(source.id, repo_type="model" if source.kind == "model" else "dataset")
    except Exception as error:
        if _refused(error) or not (source.kind == "data set" or _cached(source.id)):
            raise
        # the hub cannot be reached; what was loaded before lies in the cache


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _cached(model_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(model_id, name), str) for name in _MODEL_FILES)


@contextmanager
def loading(source: Source) -> Iterator[None]:
    """Whatever keeps the body from loading the source is told as an InputError; types are the files' own."""
    from pytest_peftbench.measure.precision import as_stored

    with _worded(source), as_stored():
        yield


@contextmanager
def _worded(source: Source) -> Iterator[None]:
    from torch import OutOfMemoryError

    try:
        yield
    except (InputError, MemoryError, OutOfMemoryError):
        raise
    except Exception as error:  # the libraries raise what comes: of JSON, of pickle, of safetensors
        raise InputError(f"{source}: {_reason(source, error)}") from error


def _reason(source: Source, error: BaseException) -> str:
    """What is wrong and the way out; the libraries wrap what the hub answered, so the causes are looked through."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    if source.folder is not None:
        return f"cannot be read: {first_line(error)}"
    chain = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) or "gated dataset" in str(cause) for cause in chain):
        return (
            f"gated; accept its terms at https://huggingface.co/{'datasets/' * (source.kind == 'data set')}{source.id} "
            f"and log in with `hf auth login`, or {_way_out(source)}"
        )
    if any(isinstance(cause, HFValidationError) for cause in chain):
        return "neither a folder nor an id of the hub, which is <owner>/<name>"
    if _refused(error):
        return f"the hub knows no such id, or it is private; correct it, or {_way_out(source)}"
    if _offline():
        return f"not in the hub's cache, and HF_HUB_OFFLINE is set; {_way_out(source)}"
    return f"cannot be loaded ({first_line(error)}); {_way_out(source)}"


def _refused(error: BaseException) -> bool:
    """Whether the hub answered that there is no such repository, or not for us."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError

    return any(isinstance(cause, (RepositoryNotFoundError, DatasetNotFoundError)) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _way_out(source: Source) -> str:
    return f"pass {_OPTIONS[source.kind]} DIR with a folder {Path(source.id).name} in it"


def require_all_weights(source: Source, loading_info: dict[str, Any]) -> None:
    """Raise InputError where weights were not in the files: the libraries draw such, and do no more than warn.

    loading_info: what `from_pretrained(..., output_loading_info=True)` gives beside the model.
    """
    missing = sorted(map(str, [*loading_info["missing_keys"], *loading_info["mismatched_keys"]]))
    if missing:
        raise InputError(f"{source}: its files lack {len(missing)} of its weights, or hold others, as {missing[0]}")


def load_rows(
    source: Source, name: str | None, split: str, *, limit: int | None = None, columns: tuple[str, ...] = ()
) -> Any:
    """The `datasets.Dataset` of one split, or its first `limit` rows.

    name: of the data set's config on the hub; a local folder may have it (in its README, or as a folder of that name)
    or hold the files alone. Raises InputError when split or a column is missing.
    """
    from datasets import Dataset, get_dataset_config_names, load_dataset

    with loading(source), tempfile.TemporaryDirectory() as cache:
        path, config = source.path, name
        options: dict[str, Any] = {"streaming": True} if limit is not None else {}
        if source.folder is not None:
            if name is not None and name not in get_dataset_config_names(path):
                path, config = str(source.folder / name) if (source.folder / name).is_dir() else path, None
            # A cache of its own: nothing stale is read, and nothing stays behind.
            options |= {"cache_dir": cache} if limit is not None else {"cache_dir": cache, "keep_in_memory": True}
        try:
            rows = load_dataset(path, config, split=split, **options)
        except ValueError as error:  # of a split or a config that is not there
            raise InputError(f"{source}: cannot be read: {first_line(error)}") from error
        missing = [column for column in columns if column not in (rows.column_names or columns)]
        if missing:
            raise InputError(f"{source}: split {split!r} has no column {missing[0]!r}, but {rows.column_names}")
        return rows if limit is None else Dataset.from_list(list(rows.take(limit)))


def load_texts(source: Source, name: str | None, split: str, limit: int | None, columns: tuple[str, ...]) -> list[Any]:
    """The rows of one split as dictionaries, whose `columns` are texts. Raises InputError, naming row and column."""
    rows: list[Any] = load_rows(source, name, split, limit=limit, columns=columns).to_list()
    for number, row in enumerate(rows):
        for column in columns:
            if not isinstance(row[column], str):
                raise InputError(
                    f"{source}: split {split!r}: row {number}: {column}: expected text, found {row[column]!r}"
                )
    return rows
