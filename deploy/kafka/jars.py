"""Gets Kafka's jars once and checks at every start that they are whole; after the first start no network is needed.

`jars.lock` names each jar of the class path, its size and SHA-256. jgo resolves and downloads into a staging folder;
what came is checked against that list and put in place as one. Next on the path: `deploy/kafka/broker.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.errors import UserError
from streams.errors import MissingExtra

KAFKA_VERSION: Final = "4.3.1"
COORDINATES: Final = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
_PROGRESS_S: Final = 1.0

Progress = Callable[[str], None]
Fetch = Callable[[Path, Progress], Sequence[Path]]
"""Puts the jars somewhere below a folder, which is empty, and says where they lie."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One jar as the lock file names it."""

    name: str
    size: int
    sha256: str


def locked() -> tuple[Jar, ...]:
    """Give the jars that make up the class path."""
    lines = (Path(__file__).parent / "jars.lock").read_text(encoding="utf-8").splitlines()
    fields = (line.split() for line in lines if not line.startswith("#"))
    return tuple(Jar(name, int(size), sha256) for sha256, size, name in fields)


def problem(jar: Jar, path: Path) -> str:
    """Say what is wrong with a file that should be this jar; empty when nothing is."""
    if not path.is_file():
        return f"{jar.name}: missing"
    if path.stat().st_size != jar.size:
        return f"{jar.name}: expected {jar.size} bytes, got {path.stat().st_size}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if found == jar.sha256 else f"{jar.name}: expected SHA-256 {jar.sha256}, got {found}"


def fetch_with_jgo(folder: Path, progress: Progress) -> Sequence[Path]:
    """Resolve and download with jgo, from the repositories in jgo's own settings, then from its default one.

    The Maven cache in the user's home is left out: jgo takes a file that a killed download left there for a whole one.
    So are jgo's environments, for which it downloads a Java of its own.

    Raises:
        UserError: a repository does not answer or lacks something.
        MissingExtra: jgo is not installed.
    """
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415 - an optional extra, and slow to import
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415 - as above
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 - as above
    except ModuleNotFoundError as exc:
        raise MissingExtra("the embedded Kafka", "kafka", "jgo") from exc
    repositories = dict(GlobalSettings.load().repositories)
    repositories.setdefault("central", MAVEN_CENTRAL_URL)
    context = MavenContext(
        resolver=PythonResolver(progress_callback=_Meter(progress).file),
        repo_cache=folder / "repository",
        remote_repos=repositories,
        local_repos=[],
    )
    try:
        named, needed = context.resolver.resolve([context.create_dependency(text) for text in COORDINATES])
        needed = [dependency for dependency in needed if dependency.scope in {"compile", "runtime"}]
        return [dependency.artifact.resolve() for dependency in (*named, *needed)]
    except Exception as exc:  # jgo documents no error classes; whatever it is, the user sees one sentence
        raise UserError(
            f"Apache Kafka's jars could not be fetched: {exc}; connect once, or bring the folder from another machine"
        ) from exc


def class_path(cache: Path, progress: Progress, fetch: Fetch = fetch_with_jgo) -> str:
    """Give Kafka's class path, downloading about 43 MiB when the cache lacks something or something in it is broken.

    Raises:
        UserError: the jars are not cached and cannot be fetched, or what was fetched is not what the lock file names.
        MissingExtra: jgo is not installed.
    """
    folder = cache / f"kafka-{KAFKA_VERSION}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "lock", progress):
            _repair(folder, progress, fetch)
    except OSError as exc:
        raise UserError(f"{folder}: Kafka's jars cannot be kept there: {exc}") from exc
    return ":".join(str(folder / "jars" / jar.name) for jar in locked())


def _repair(folder: Path, progress: Progress, fetch: Fetch) -> None:
    wrong = [found for jar in locked() if (found := problem(jar, folder / "jars" / jar.name))]
    if not wrong:
        return
    if (folder / "jars").exists():
        progress(f"{folder}: {wrong[0]}; fetching all jars anew")
    size = sum(jar.size for jar in locked())
    progress(f"fetching Apache Kafka {KAFKA_VERSION}: {len(locked())} jars, {size / 1e6:.0f} MB, once")
    staging = folder / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "fetched").mkdir(parents=True)
    (staging / "jars").mkdir()
    fetched = {path.name: path for path in fetch(staging / "fetched", progress)}
    for jar in locked():
        path = fetched.get(jar.name, staging / "fetched" / jar.name)
        if trouble := problem(jar, path):
            raise UserError(
                f"Apache Kafka's jars were fetched, but are not what deploy/kafka/jars.lock names: {trouble}"
            )
        shutil.copyfile(path, staging / "jars" / jar.name)
    shutil.rmtree(folder / "jars", ignore_errors=True)
    (staging / "jars").replace(folder / "jars")
    shutil.rmtree(staging, ignore_errors=True)
    progress(f"kept in {folder}; from now on no network is needed")


class _Meter:
    """Reports how much has arrived, at most once a second."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._sizes = {jar.name: jar.size for jar in locked()}
        self._jars = self._bytes = self._descriptions = 0
        self._due = time.monotonic() + _PROGRESS_S

    @contextmanager
    def file(self, name: str, _size: int) -> Iterator[Callable[[int], None]]:
        """Follow one file, the way jgo asks for it: first the descriptions, then the jars."""
        ours = name in self._sizes
        yield self._add if ours else lambda _: None
        self._jars += ours
        self._descriptions += not ours
        self._add(0)

    def _add(self, count: int) -> None:
        self._bytes += count
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _PROGRESS_S
        total = sum(self._sizes.values()) / 1e6
        done = f"{self._jars} of {len(self._sizes)} jars, {self._bytes / 1e6:.0f} of {total:.0f} MB"
        self._progress(f"  {done}" if self._bytes else f"  resolving: {self._descriptions} descriptions read")


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time look at the cache and fill it; the kernel frees the lock of one that dies."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process looks after Kafka's jars; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
