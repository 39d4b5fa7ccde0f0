"""A broker that fails on demand: librdkafka's own mock cluster, driven through the C interface inside the wheel.

It speaks Kafka's protocol on loopback and lives in this process. It has no admin interface, keeps 5 MiB per partition,
and is declared experimental by its makers; everything that the suite uses of it is here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import confluent_kafka

PRODUCE: Final = 0
OFFSET_COMMIT: Final = 8
INIT_PRODUCER_ID: Final = 22

REQUEST_TIMED_OUT: Final = 7
NOT_LEADER: Final = 6
NOT_ENOUGH_REPLICAS: Final = 19
MESSAGE_TOO_LARGE: Final = 10
CLUSTER_AUTHORIZATION_FAILED: Final = 31

_PRODUCER: Final = 0


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    (path,) = folder.glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    pointers = ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new")
    for name in pointers:
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class MockCluster:
    """A cluster of brokers; use it as a context."""

    def __init__(self, topics: dict[str, int], brokers: int = 1) -> None:
        self._library, self._brokers = _library(), brokers
        problem = ctypes.create_string_buffer(512)
        conf = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._client = ctypes.c_void_p(self._library.rd_kafka_new(_PRODUCER, conf, problem, 512))
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._client, brokers))
        assert self._client.value, problem.value
        assert self._cluster.value
        # Real brokers wait for more members at first; here there is one.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        for name, partitions in topics.items():
            self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, brokers)

    @property
    def bootstrap(self) -> str:
        """Give the addresses of all brokers."""
        address: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def fail(self, request: int, errors: Sequence[int]) -> None:
        """Answer the next requests of a kind with these error codes, one each."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), codes
        )

    def down(self) -> None:
        """Take every broker away."""
        for broker in range(1, self._brokers + 1):
            self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def up(self) -> None:
        """Bring every broker back."""
        for broker in range(1, self._brokers + 1):
            self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
