"""A worker process of the contract suite: a host over real Kafka that can kill itself at a chosen step.

Called as `python -m tests.contracts.worker HOST BOOTSTRAP PREFIX STEP AT PAUSE QUEUE KIB`. At its end it says how much
ever waited for its stages.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

from streams.hosts.faust import FaustHost
from streams.hosts.native import NativeHost
from streams.hosts.runner import RunnerSettings
from streams.hosts.settings import HostSettings
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.stage import Batch, Checkpoint, Done, Effects, Output, StateStore
from streams.state import KafkaStateStore
from streams.topics import Topics
from tests.contracts.stages import Sums

HOSTS: dict[str, type[NativeHost | FaustHost]] = {"native": NativeHost, "ahead": NativeHost, "faust": FaustHost}


class Fuse:
    """Kills the process without warning when a step is reached for the n-th time."""

    def __init__(self, step: str, at: int) -> None:
        self._step, self._left = step, at

    def reach(self, step: str) -> None:
        """Burn down at the chosen step."""
        if step == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class FusedPublisher(ConfluentPublisher):
    """A publisher that dies before or after it sends."""

    def __init__(self, settings: PublisherSettings, fuse: Fuse, state: str) -> None:
        super().__init__(settings)
        self._fuse, self._state = fuse, state

    def send(self, output: Output, done: Done) -> None:
        """Send, with a fuse on each side."""
        kind = "save" if output.topic == self._state else "publish"
        self._fuse.reach(f"before-{kind}")
        super().send(output, done)
        self.flush(10)
        self._fuse.reach(f"after-{kind}")


class FusedStore:
    """A state store that dies once a checkpoint is durable, before anything is committed."""

    def __init__(self, store: StateStore, fuse: Fuse) -> None:
        self._store, self._fuse = store, fuse

    def load(self, partition: int) -> Checkpoint | None:
        """Load."""
        return self._store.load(partition)

    def save(self, partition: int, checkpoint: Checkpoint) -> None:
        """Save, then burn."""
        self._store.save(partition, checkpoint)
        self._fuse.reach("before-commit")


def main() -> int:
    """Run until SIGTERM."""
    host_name, bootstrap, prefix, step, at, pause, queue, kib = sys.argv[1:9]
    topics = Topics(prefix)
    fuse = Fuse(step, int(at))
    state = topics.state("sums")
    publisher = FusedPublisher(PublisherSettings(bootstrap=bootstrap, linger_ms=0), fuse, state)
    store = FusedStore(KafkaStateStore(bootstrap, state, publisher), fuse)
    settings = HostSettings(
        bootstrap=bootstrap, topic=topics.payloads, group=f"{prefix}.sums", batch_records=7, queue_records=int(queue),
        queue_kib=int(kib), session_timeout_ms=2_000, idle_after_s=0.5,
    )  # fmt: skip
    if host_name == "ahead":
        settings = replace(settings, ahead=1, batch_s=0.02, poll_ms=5)
    most = [0, 0]

    class Watched(Sums):
        """A stage that looks at its host's queues before it works."""

        def process(self, batch: Batch) -> Effects:
            """Note how many records and bytes wait, when it is more than ever before."""
            waiting_bytes = host.waiting_bytes() if isinstance(host, NativeHost) else 0
            most[:] = max(most[0], host.waiting()), max(most[1], waiting_bytes)
            return super().process(batch)

    host = HOSTS[host_name](
        settings, RunnerSettings(stage="sums", deadletter=topics.deadletter),
        lambda partition: Watched(partition, topics.observations, float(pause)), publisher, store,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: host.stop())
    host.run()
    sys.stderr.write(f"at most {most[0]} records of {most[1]} bytes waited\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
