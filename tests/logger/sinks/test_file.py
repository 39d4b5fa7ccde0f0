"""The file sink: whole lines, bounded files, errors that may pass."""

from __future__ import annotations

from pathlib import Path

from logger.settings import TapSettings
from logger.sinks.file import FilePublisher, FileSettings
from logger.tap import Tap
from streams.bindings import decode_event, from_kafka
from streams.errors import Refused, Unavailable
from streams.stage import Output
from tests.logger.test_outbox import seen


def outputs(count: int) -> list[Output]:
    """Make events."""
    letters = Tap(TapSettings(mode="request")).letters(seen(), 0)
    return [Output("", letters[0].key, b"%d" % number, letters[0].headers) for number in range(count)]


def send(publisher: FilePublisher, sent: list[Output]) -> list[Exception | None]:
    """Send one after the other and give the answers."""
    found: list[Exception | None] = []
    for output in sent:
        publisher.send(output, found.append)
        publisher.poll(0)
    publisher.close()
    return found


def lines(folder: Path) -> list[bytes]:
    """Give all lines of all files."""
    return [line for path in sorted(folder.glob("events-*.jsonl")) for line in path.read_bytes().splitlines()]


def test_events_are_lines(tmp_path: Path) -> None:
    """Each event is a line in CloudEvents' JSON format; a new file begins at the bound and after a restart."""
    sent = outputs(20)
    settings = FileSettings(folder=tmp_path / "new" / "folder", file_bytes=2_000, sync=True)
    found = send(FilePublisher(settings), sent[:15]) + send(FilePublisher(settings), sent[15:])
    files = list(settings.folder.iterdir())

    assert found == [None] * 20
    events = [decode_event(line) for line in lines(settings.folder)]
    assert [event.data for event in events] == [output.value for output in sent]
    assert events[0].extensions == from_kafka(sent[0].headers, b"").extensions
    assert len(files) > 3
    assert all(path.stat().st_size < 3_500 for path in files)


def test_full_and_broken_folders(tmp_path: Path) -> None:
    """At the bound of all files events are refused for good; an error of the disk may pass."""
    full = send(FilePublisher(FileSettings(folder=tmp_path / "a", max_bytes=1_500)), outputs(5))
    publisher = FilePublisher(FileSettings(folder=tmp_path / "b"))
    (tmp_path / "b").rmdir()
    (broken,) = send(publisher, outputs(1))
    (tmp_path / "b").mkdir()
    (whole,) = send(publisher, outputs(1))

    assert full[0] is None
    assert type(full[-1]) is Refused
    assert type(broken) is Unavailable
    assert whole is None
    assert len(lines(tmp_path / "b")) == 1
