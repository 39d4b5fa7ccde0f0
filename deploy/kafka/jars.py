"""Gets Kafka's jars once and remembers where they lie, so that every later start works without a network.

jgo resolves and downloads; a manifest (file name → size) beside the jars says what belongs to the class path. Jars that
are missing or of another size are fetched again. Next on the path: `deploy/kafka/broker.py`.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.errors import UserError
from streams.errors import MissingExtra

KAFKA_VERSION: Final = "4.3.1"
ENDPOINT: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_EXPECTED_BYTES: Final = 44_000_000

Progress = Callable[[str], None]


def class_path(cache: Path, progress: Progress) -> str:
    """Give Kafka's class path, downloading about 42 MiB when the cache lacks something.

    Raises:
        UserError: the jars are not cached and cannot be fetched.
        MissingExtra: jgo is not installed.
    """
    folder = cache / f"kafka-{KAFKA_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        jars = _cached(folder)
        if jars is None:
            _fetch(folder, progress)
            jars = _cached(folder)
    if jars is None:
        raise UserError(f"{folder}: the jars changed while they were written; delete the folder and start again")
    return ":".join(str(jar) for jar in jars)


def _cached(folder: Path) -> list[Path] | None:
    """Give the jars when all of them are there, whole."""
    try:
        manifest: dict[str, int] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    jars = [folder / "jars" / name for name in manifest]
    whole = all(jar.is_file() and jar.stat().st_size == manifest[jar.name] for jar in jars)
    return jars if jars and whole else None


def _fetch(folder: Path, progress: Progress) -> None:
    try:
        import jgo  # noqa: PLC0415 - an optional extra, and slow to import
    except ModuleNotFoundError as exc:
        raise MissingExtra("the embedded Kafka", "kafka", "jgo") from exc
    progress(f"fetching Apache Kafka {KAFKA_VERSION} (about 42 MiB, once)")
    store = folder / "jgo"
    shutil.rmtree(folder / "jars", ignore_errors=True)
    with _watched(store, progress):
        try:
            found = jgo.build(ENDPOINT, cache_dir=store).all_jars
        except Exception as exc:  # jgo documents no error classes; whatever it is, the user sees one sentence
            raise UserError(f"Apache Kafka's jars could not be fetched: {exc}") from exc
    (folder / "jars").mkdir()
    for jar in found:
        shutil.copyfile(jar, folder / "jars" / Path(jar).name)
    manifest = {jar.name: jar.stat().st_size for jar in sorted((folder / "jars").iterdir())}
    draft = folder / "manifest.tmp"
    draft.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    draft.replace(folder / "manifest.json")
    shutil.rmtree(store, ignore_errors=True)
    progress(f"{len(manifest)} jars, {sum(manifest.values()) / 1e6:.0f} MB, cached in {folder}")


@contextmanager
def _watched(store: Path, progress: Progress) -> Iterator[None]:
    """Report how much has arrived, while it arrives."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            size = sum(path.stat().st_size for path in store.rglob("*.jar") if path.exists()) if store.exists() else 0
            progress(f"  {size / 1e6:4.0f} of about {_EXPECTED_BYTES / 1e6:.0f} MB")

    thread = threading.Thread(target=watch, name="jar-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time fill the cache."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
