"""`sidelight collector`: an HTTP CloudEvents sink for unmodified KServe agents."""

from __future__ import annotations

import argparse
import logging
import signal
import sys

import uvicorn
from prometheus_client import start_http_server

from deploy.kinds import seconds
from deploy.listening import serve
from deploy.security import add_kafka_arguments, kafka_security
from logger.collector import Collector, CollectorSettings
from streams.addresses import bare
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.topics import Topics

HELP = "take the CloudEvents that KServe agents post and put them on the payload topic"
EXAMPLES = """\
  sidelight collector --kafka broker:9092 --port 8085
  # and in the InferenceService:  logger: {mode: all, url: http://collector:8085}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    defaults = CollectorSettings(topic="", deadletter="")
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT", help="bootstrap address")
    parser.add_argument("--prefix", default="inference", help="first part of every topic name (default: inference)")
    parser.add_argument("--host", type=bare, default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=8085)
    parser.add_argument(
        "--max-body-bytes", type=int, default=defaults.max_body, help="largest request (default: 16 MiB)"
    )
    parser.add_argument(
        "--delivery-timeout", type=seconds, default=defaults.delivery_s, help="seconds to wait for Kafka"
    )
    parser.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="Prometheus page; 0 is none")
    add_kafka_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    topics = Topics(arguments.prefix)
    settings = CollectorSettings(
        topic=topics.payloads, deadletter=topics.deadletter, max_body=arguments.max_body_bytes,
        delivery_s=arguments.delivery_timeout,
    )  # fmt: skip
    publisher = ConfluentPublisher(
        PublisherSettings(
            bootstrap=arguments.kafka,
            client_id="collector",
            message_max_bytes=arguments.max_body_bytes + (64 << 10),
            security=kafka_security(arguments),
        )
    )
    collector = Collector(settings, publisher)
    if arguments.metrics_port:
        start_http_server(arguments.metrics_port, addr="127.0.0.1", registry=collector.registry)
    # uvicorn drains and then raises the signal again; drained is a good end, so nothing more shall come of it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        collector.app, host=arguments.host, port=arguments.port, log_config=None, access_log=False,
        timeout_graceful_shutdown=int(arguments.delivery_timeout) + 5,
    )  # fmt: skip
    return serve(config)
