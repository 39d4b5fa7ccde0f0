"""The cache of Kafka's jars: fetched once, whole or repaired, never half-used."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy import environment
from deploy.errors import UserError
from deploy.kafka import jars
from deploy.kafka.jars import Progress


class Source:
    """A repository on this machine: gives the jars that it holds and counts how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.asked = 0

    def __call__(self, _folder: Path, _progress: Progress) -> Sequence[Path]:
        """Give the jars."""
        self.asked += 1
        return sorted(self._folder.iterdir())


def kept(cache: Path) -> Path:
    """Give where a cache keeps its jars."""
    return cache / f"kafka-{jars.KAFKA_VERSION}" / "jars"


def silent(_line: str) -> None:
    """Report nothing."""


@pytest.fixture
def filled(tmp_path: Path, kept_jars: Path) -> Path:
    """Give a cache that holds everything."""
    cache = tmp_path / "cache"
    shutil.copytree(kept_jars, kept(cache))
    return cache


def test_the_lock_file_names_the_version_that_is_resolved() -> None:
    """Endpoint and lock file cannot drift apart unseen."""
    names = [jar.name for jar in jars.locked()]

    assert f"kafka_2.13-{jars.KAFKA_VERSION}.jar" in names
    assert f"kafka-clients-{jars.KAFKA_VERSION}.jar" in names
    assert len(names) == len(set(names)) == 46


def test_the_first_start_fetches_and_the_second_does_not(tmp_path: Path, kept_jars: Path) -> None:
    """One download; from then on the cache answers alone."""
    source = Source(kept_jars)
    first = jars.class_path(tmp_path / "cache", silent, source)
    second = jars.class_path(tmp_path / "cache", silent, source)

    assert source.asked == 1
    assert first == second
    assert all(Path(path).is_file() for path in first.split(":"))
    assert len(first.split(":")) == len(jars.locked())


def damage_by_removal(path: Path) -> None:
    """Take a jar away."""
    path.unlink()


def damage_by_truncation(path: Path) -> None:
    """Leave what a killed download leaves."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def damage_by_one_bit(path: Path) -> None:
    """Change a bit, but neither name nor size."""
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("damage", [damage_by_removal, damage_by_truncation, damage_by_one_bit])
def test_a_broken_cache_is_repaired(filled: Path, kept_jars: Path, damage: Callable[[Path], None]) -> None:
    """Whatever happened to a jar, the next start notices before Java does, says so, and fetches anew."""
    said: list[str] = []
    damage(kept(filled) / "kafka-clients-4.3.1.jar")
    source = Source(kept_jars)
    jars.class_path(filled, said.append, source)

    assert source.asked == 1
    assert any("kafka-clients-4.3.1.jar" in line and "fetching all jars anew" in line for line in said)
    assert not [jar for jar in jars.locked() if jars.problem(jar, kept(filled) / jar.name)]


def test_a_jar_that_is_not_the_pinned_one_is_refused(tmp_path: Path, kept_jars: Path) -> None:
    """What a repository gives is checked against the digests in the package, and nothing of it is put in place."""
    wrong = tmp_path / "wrong"
    shutil.copytree(kept_jars, wrong)
    damage_by_one_bit(wrong / "kafka_2.13-4.3.1.jar")

    with pytest.raises(UserError, match=r"kafka_2\.13-4\.3\.1\.jar: expected SHA-256 [0-9a-f]{64}, got"):
        jars.class_path(tmp_path / "cache", silent, Source(wrong))
    assert not kept(tmp_path / "cache").exists()


def test_a_jar_that_the_repository_lacks_is_named(tmp_path: Path, kept_jars: Path) -> None:
    """An incomplete repository is an error now, not a ClassNotFoundException later."""
    partial = tmp_path / "partial"
    shutil.copytree(kept_jars, partial)
    (partial / "zstd-jni-1.5.6-10.jar").unlink()

    with pytest.raises(UserError, match=r"zstd-jni-1\.5\.6-10\.jar: missing"):
        jars.class_path(tmp_path / "cache", silent, Source(partial))


def test_parallel_first_starts_fetch_once(tmp_path: Path, kept_jars: Path) -> None:
    """Several starts at once: one fetches, the others wait for it and say that they do."""
    said: list[str] = []
    waiting = threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            waiting.set()

    source = Source(kept_jars)

    def slow(folder: Path, progress: Progress) -> Sequence[Path]:
        assert waiting.wait(60)
        return source(folder, progress)

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: jars.class_path(tmp_path / "cache", hear, slow), range(4)))

    assert source.asked == 1
    assert len(found) == 1


def test_a_killed_fetch_leaves_nothing_behind_that_is_used(tmp_path: Path, kept_jars: Path) -> None:
    """SIGKILL in the middle of the first download: the next start begins anew, and is not locked out."""
    code = (
        "import pathlib, sys, time\n"
        "from deploy.kafka import jars\n"
        "def fetch(folder, progress):\n"
        "    (folder / 'kafka_2.13-4.3.1.jar').write_bytes(b'half')\n"
        "    print('fetching', flush=True)\n"
        "    time.sleep(60)\n"
        "jars.class_path(pathlib.Path(sys.argv[1]), lambda line: None, fetch)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"fetching\n"
        process.kill()
    jars.class_path(tmp_path, silent, Source(kept_jars))

    assert not [jar for jar in jars.locked() if jars.problem(jar, kept(tmp_path) / jar.name)]


@contextmanager
def repository(kept: Path) -> Iterator[str]:
    """Serve these jars as a Maven repository does, with descriptions from which the class path follows."""
    files: dict[str, bytes] = {}
    named = {"-".join(text.split(":")[1:]): text for text in jars.COORDINATES}
    dependencies = ""
    for path in kept.iterdir():
        artifact, version = re.fullmatch(r"(.+?)-(\d.*)", path.stem).groups()  # type: ignore[union-attr]
        group = named.get(path.stem, "example:").partition(":")[0]
        name = f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        folder = f"/{group.replace('.', '/')}/{artifact}/{version}/{path.stem}"
        files[f"{folder}.jar"] = path.read_bytes()
        files[f"{folder}.pom"] = f"<project><modelVersion>4.0.0</modelVersion>{name}</project>".encode()
        if group == "example":
            dependencies += f"<dependency>{name}</dependency>"
    (kafka,) = [name for name in files if re.search(r"/kafka_2\.13-.*pom$", name)]
    whole = f"<dependencies>{dependencies}</dependencies></project>".encode()
    files[kafka] = files[kafka].replace(b"</project>", whole)

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_the_jars_are_all_that_is_fetched(tmp_path: Path, kept_jars: Path) -> None:
    """The repository that the user names is enough for the whole class path, and jgo leaves no Java in their home."""
    home, config = tmp_path / "home", tmp_path / "jgo.conf"
    home.mkdir()
    code = "import sys, pathlib; from deploy.kafka import jars; jars.class_path(pathlib.Path(sys.argv[1]), print)"
    with repository(kept_jars) as url:
        config.write_text(f"[repositories]\ncentral = {url}\n", encoding="utf-8")
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "cache")],
            env=environment.inherited() | {"HOME": str(home), "JGO_CONFIG_FILE": str(config)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run.returncode == 0, run.stderr
    assert not [jar for jar in jars.locked() if jars.problem(jar, kept(tmp_path / "cache") / jar.name)]
    assert not list(home.iterdir())


def test_an_unreachable_repository_gives_one_sentence(tmp_path: Path) -> None:
    """Without cache and network, the start says what failed and what helps, and leaves no half cache."""
    config = tmp_path / "jgo.conf"
    config.write_text("[repositories]\ncentral = http://127.0.0.1:1/\n", encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "kafka", "start"],
        env=environment.inherited() | {"SIDELIGHT_HOME": str(tmp_path / "home"), "JGO_CONFIG_FILE": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2
    assert "Apache Kafka's jars could not be fetched" in run.stderr
    assert "127.0.0.1" in run.stderr
    assert "Traceback" not in run.stderr
    assert not kept(tmp_path / "home" / "kafka").exists()


def test_a_cache_folder_that_cannot_be_written_gives_one_sentence(tmp_path: Path) -> None:
    """A file where the cache should be is the user's mistake, told as one."""
    (tmp_path / "cache").write_text("", encoding="utf-8")

    with pytest.raises(UserError, match=r"cache/kafka-4\.3\.1: Kafka's jars cannot be kept there"):
        jars.class_path(tmp_path / "cache", silent)
