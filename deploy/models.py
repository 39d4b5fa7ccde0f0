"""The arguments that say which models a command works with, and the repository that they make."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from deploy import environment
from deploy.errors import UserError
from deploy.kinds import at_least, seconds
from inference import adjustments
from inference.directory import holds_model
from inference.entries import Source
from inference.errors import DeviceExhausted, ModelLoadFailed
from inference.folders import ModelFolder, Shelf, Stored
from inference.notes import Note
from inference.repository import Repository
from inference.residency import container_limit
from inference.settings import RepositorySettings, Trust
from inference.storage.cache import Storage, StorageSettings
from inference.upstream.link import Link

log = logging.getLogger(__name__)

_DEFAULTS: Final = RepositorySettings()
_LOOKED_AT: Final = 20
"""Folders in which a model is looked for, to tell a repository from a folder without a model."""
_OF_CONTAINER: Final = 0.8
_UNITS: Final = {
    "": 1, "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3,
}  # fmt: skip


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name models, and say where they come from."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model_name", action="append", default=[], metavar="NAME",
        help="its name (default: model); with several models, once for each --model_dir",
    )  # fmt: skip
    group.add_argument(
        "--model_dir", action="append", default=[], metavar="DIR",
        help="folder with one model file, or with numbered folders of versions; or a storage URI: file, pvc, http,"
        " https, s3, gs, az, also of a .zip or .tar.gz; ?sha256= is checked; repeatable",
    )  # fmt: skip
    group.add_argument("--model", action="append", default=[], metavar="NAME=DIR", help="one more model; repeatable")
    group.add_argument(
        "--runtime", "--framework", metavar="NAME",
        help="which runtime reads it, by our name or KServe's for the format (default: found from the file)",
    )  # fmt: skip
    group.add_argument("--trusted", action="store_true", help="load what runs code: pickle, joblib, Python classes")
    group.add_argument(
        "--trusted-types", type=_words, default=(), metavar="TYPE,...", help="types that a .skops file may build, too"
    )
    storage = parser.add_argument_group("storage")
    storage.add_argument(
        "--volume", action="append", default=[], metavar="CLAIM=DIR", help="where pvc://CLAIM is mounted; repeatable"
    )
    storage.add_argument(
        "--storage_cache",
        type=Path,
        metavar="DIR",
        help="where fetched models lie (default: models/ in SIDELIGHT_HOME)",
    )
    storage.add_argument(
        "--storage_cache_bytes", type=_bytes, default=0, metavar="SIZE",
        help="of fetched models, such as 50Gi; beyond it goes what was not used for longest (default: all stays)",
    )  # fmt: skip


def add_repository_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a folder of models, and of loading them on demand."""
    group = parser.add_argument_group("model repository")
    group.add_argument(
        "--model_repository", "--model-repository", type=Path, metavar="DIR",
        help="folder of models, one folder each by its name, loaded by the first request for them; a --model_dir"
        " without a model but with such folders is one, too",
    )  # fmt: skip
    group.add_argument(
        "--max_memory", type=_bytes, metavar="SIZE",
        help="of all --workers together, such as 4Gi; above it models that are not in use are unloaded, the least"
        " recently used first (default: 80%% of the container's limit with a repository, else none)",
    )  # fmt: skip
    group.add_argument(
        "--max_gpu_memory", type=_bytes, metavar="SIZE",
        help="that loaded models hold of a GPU, all --workers together; above it the same (default: no bound)",
    )  # fmt: skip
    group.add_argument(
        "--model_loads", type=at_least(1), default=_DEFAULTS.loads, metavar="N",
        help="models loaded at the same time (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--repository_poll_s", type=seconds, default=_DEFAULTS.poll_s, metavar="SECONDS",
        help="how often the folders are looked at for new, changed and removed models; 0: never (default: %(default)g)",
    )  # fmt: skip


def model_names(arguments: argparse.Namespace) -> list[str]:
    """List the models that the arguments name, in order."""
    return list(_addresses(arguments))


def open_repository(
    arguments: argparse.Namespace, link: Link | None = None, gpu: int = 0, notes: Sequence[Note] = ()
) -> Repository:
    """Load every model that the arguments name; know those of a repository's folder.

    Args:
        arguments: of the command line.
        link: to a predictor: the folders hold transformers that stand before it.
        gpu: number of the one that models take which name none.
        notes: what was said of models before this process was started again; holds in place of the command line.

    Raises:
        UserError: none is named, one is named twice, or one cannot be loaded.
    """
    environment.one_native_thread()
    trust = Trust(code=arguments.trusted, types=arguments.trusted_types)
    storage = _storage(arguments)
    addresses, folder = _addresses(arguments), getattr(arguments, "model_repository", None)
    if folder is None and (found := _repository_of_kserve(arguments)):
        addresses, folder = {}, found
        log.info("%s holds no model but folders of models: they are loaded by the first requests for them", folder)
    if not addresses and folder is None:
        raise UserError("no model: name one with --model_name NAME --model_dir DIR")
    sources = {
        name: _source(address, storage, trust, arguments.runtime, link, gpu) for name, address in addresses.items()
    }
    shelf = Shelf(folder, trust, arguments.runtime, storage, link, gpu) if folder is not None else None
    try:
        repository = Repository(sources, _settings(arguments, on_demand=shelf is not None), shelf)
    except ModelLoadFailed as exc:
        raise UserError(f"--model_repository: {exc}") from exc
    for note in notes:
        repository.recall(note.model, adjustments.read(note.model, note.parameters), unloaded=note.unloaded)
    unloaded = {note.model for note in notes if note.unloaded}
    for name, address in addresses.items():
        if name in unloaded:
            continue
        log.info("loading model %s from %s", name, address)
        try:
            repository.load(name, None)
        except (DeviceExhausted, ModelLoadFailed) as exc:
            raise UserError(f"model {name!r}: {exc}") from exc
    return repository


def _addresses(arguments: argparse.Namespace) -> dict[str, str]:
    names, places = list(arguments.model_name), list(arguments.model_dir)
    if len(places) == 1 and not names:
        names = ["model"]
    if len(names) != len(places):
        raise UserError(f"--model_name, --model_dir: expected one for each, got {len(names)} and {len(places)}")
    pairs = list(zip(names, places, strict=True))
    for text in arguments.model:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise UserError(f"--model: expected NAME=DIR, got {text!r}")
        pairs.append((name, place))
    found: dict[str, str] = {}
    for name, place in pairs:
        if name in found:
            raise UserError(f"--model: {name!r} is named twice")
        found[name] = place
    return found


def _source(
    address: str, storage: Storage, trust: Trust, runtime: str | None, link: Link | None, gpu: int
) -> Source:  # fmt: skip
    try:
        if storage.is_local(address):
            return ModelFolder(str(storage.folder(address)), trust, runtime, storage, link, gpu)
    except ModelLoadFailed as exc:
        raise UserError(str(exc)) from exc
    return Stored(storage, address, "", trust, runtime, link, gpu)


def _storage(arguments: argparse.Namespace) -> Storage:
    volumes: dict[str, Path] = {}
    for text in arguments.volume:
        claim, equals, place = text.partition("=")
        if not (claim and equals and place):
            raise UserError(f"--volume: expected CLAIM=DIR, got {text!r}")
        volumes[claim] = Path(place)
    cache = arguments.storage_cache or environment.home() / "models"
    return Storage(StorageSettings(cache=cache, volumes=volumes, max_bytes=arguments.storage_cache_bytes))


def _settings(arguments: argparse.Namespace, *, on_demand: bool) -> RepositorySettings:
    if not hasattr(arguments, "max_memory"):
        return RepositorySettings()
    most = arguments.max_memory
    if most is None and on_demand:
        most = int(container_limit() * _OF_CONTAINER)
    # A container's limit is one for all of its processes, and each process loads models of its own.
    workers = getattr(arguments, "workers", 1)
    memory, of_gpu = (most or 0) // workers, (arguments.max_gpu_memory or 0) // workers
    if workers > 1 and (memory or of_gpu):
        log.info(
            "%d processes share the memory: models get %d MiB of it in each, and %s of a GPU's",
            workers, memory >> 20, f"{of_gpu >> 20} MiB" if of_gpu else "any part",
        )  # fmt: skip
    return RepositorySettings(
        on_demand=on_demand, max_memory=memory, max_gpu_memory=of_gpu, loads=arguments.model_loads,
        poll_s=arguments.repository_poll_s,
    )  # fmt: skip


def _repository_of_kserve(arguments: argparse.Namespace) -> Path | None:
    """Give the folder that KServe's servers would take for a repository: one without a model but with models below."""
    if arguments.model_name or arguments.model or len(arguments.model_dir) != 1 or "://" in arguments.model_dir[0]:
        return None
    folder = Path(arguments.model_dir[0])
    if not hasattr(arguments, "model_repository") or not folder.is_dir() or _holds(folder, arguments.runtime):
        return None
    below = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    return folder if any(_holds(path, arguments.runtime) for path in islice(below, _LOOKED_AT)) else None


def _holds(folder: Path, runtime: str | None) -> bool:
    versions = (path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    return holds_model(folder, runtime) or any(holds_model(path, runtime) for path in islice(versions, _LOOKED_AT))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(k|K|M|G|Ki|Mi|Gi|)(?:B)?", text)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected bytes, such as 500Mi or 4Gi, got {text!r}")
    return size
