"""`sidelight stream`: answers requests for predictions from a Kafka topic. Next: `inference/kafka/stage.py`."""

from __future__ import annotations

import argparse
import gc
import math
from typing import Final

from deploy import environment
from deploy.claims import claim_store
from deploy.errors import UserError
from deploy.kafka.topics import ensured_partitions
from deploy.kinds import at_least, seconds
from deploy.models import add_model_arguments, model_names, open_repository
from deploy.plane import open_plane
from deploy.security import kafka_security
from deploy.shadows import stream_shadow_log
from deploy.workers import Tuning, add_worker_arguments, run_stage
from inference.kafka.plane import PlaneModels
from inference.kafka.settings import StreamSettings
from inference.kafka.stage import STAGE, InferenceStage
from streams.stage import Stage
from streams.topics import Topics, request_topics

HELP = "answer requests for predictions from a Kafka topic"
EXAMPLES = """\
  sidelight stream --model_name income --model_dir model/ --kafka broker:9092
  sidelight stream --model_dir model/ --kafka broker:9092 --request_topic asks --reply_topic answers --log_payloads
  sidelight stream --model a=models/a --model b=models/b --kafka broker:9092 --allow_reply_topic 'team.answers.*'

A request is a record with a V1 or V2 body (JSON, binary tensors or an Arrow stream), bare or as a CloudEvent; header
`modelname` chooses the model, `x-request-id` comes back with the answer. See docs/stream.md."""

_DEFAULTS: Final = StreamSettings(responses="", deadletter="")
_COMPRESSIONS: Final = ("none", "gzip", "lz4", "snappy", "zstd")
_AHEAD: Final = 1
_POLL_MS: Final = 2
_BATCH_MS: Final = 2
_BATCH_S: Final = 0.3
_COLLECT: Final = (50_000, 20, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model_arguments(parser)
    group = parser.add_argument_group("topics")
    group.add_argument("--request_topic", default="", metavar="TOPIC", help="default: PREFIX.requests")
    group.add_argument("--reply_topic", default="", metavar="TOPIC", help="default: PREFIX.responses")
    group.add_argument(
        "--allow_reply_topic", action="append", default=[], metavar="TOPIC",
        help="a topic that a request may name by header reply-topic; * at the end stands for anything; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--log_payloads", action="store_true",
        help="write request and answer to PREFIX.payloads, too, as a logger does: for assembler and detectors",
    )  # fmt: skip
    group.add_argument(
        "--inference-service", default="", metavar="NAME", help="in the events (default: the model's name)"
    )
    group.add_argument("--namespace", default=_DEFAULTS.namespace, help="in the events (default: %(default)s)")
    group.add_argument(
        "--partitions", type=at_least(1), default=4, help="of topics that do not exist yet (default: %(default)s)"
    )
    group.add_argument(
        "--compression", choices=_COMPRESSIONS, default="none",
        help="of the answers; a plain kafka-python reads gzip alone (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--claims", default="", metavar="URL",
        help="store of requests' bodies that were too large for a record: file:///folder or s3://bucket/prefix",
    )  # fmt: skip
    _add_limits(parser.add_argument_group("limits"))
    add_worker_arguments(parser, STAGE)


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--batch_records", type=at_least(1), default=1_024,
        help="most records that are answered and saved together, per partition (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max_batch_rows",
        type=at_least(1),
        default=_DEFAULTS.max_rows,
        help="most rows of different requests in one prediction; the model's own max_batch holds, too"
        " (default: %(default)s)",
    )
    group.add_argument("--max_threads", type=at_least(1), default=1, help="predictions at once (default: %(default)s)")
    group.add_argument(
        "--patience", type=seconds, default=0.0, metavar="SECONDS",
        help="how long a model may be away before its requests are answered with 503; until then they wait, and what"
        " follows them in their partition, too; 0 is for ever (default: 0)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Load the models, then answer until SIGTERM or SIGINT."""
    topics = Topics(arguments.prefix)
    settings = _settings(arguments, topics)
    claims = claim_store(arguments.claims)
    requests = arguments.request_topic or topics.requests
    if requests in {settings.responses, settings.payloads, settings.deadletter}:
        raise UserError(f"--request_topic {requests}: answers go there, too; they would be answered in turn")
    access = kafka_security(arguments).properties()
    # No answer may be lost to a topic that is missing, so all are made before the first request is read.
    names = (requests, settings.responses, settings.deadletter, *filter(None, (settings.payloads,)))
    partitions = [
        ensured_partitions(arguments.kafka, topic, extra=access)
        for topic in request_topics(tuple(dict.fromkeys(names)), arguments.partitions)
    ]
    repository = open_repository(arguments)
    # What waits is in the topic, and may take as long as it takes.
    plane = open_plane(repository, arguments.max_threads, traces=environment.traces())
    patience_s = arguments.patience or math.inf
    shadows = stream_shadow_log(arguments, settings.source, settings.payloads) if settings.payloads else None
    if shadows is not None:
        plane.shadows.witness = shadows.offer
    models = PlaneModels(plane, repository, patience_s=patience_s, shadowed_apart=shadows is not None)

    def stage(partition: int) -> Stage:
        return InferenceStage(partition, settings, models, claims)

    tuning = Tuning(
        batch_records=arguments.batch_records, batch_ms=_BATCH_MS, batch_s=_BATCH_S, poll_ms=_POLL_MS, ahead=_AHEAD,
        compression=arguments.compression, collectors=(plane.metrics.registry, *filter(None, (shadows,))),
    )  # fmt: skip
    # What was loaded so far stays, and requests leave hardly any cycles: a search for some looks at all that is there.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    try:
        return run_stage(
            arguments, name=STAGE, topic=requests, partitions=partitions[0], factory=stage, tuning=tuning,
            lost=plane.lost,
        )  # fmt: skip
    finally:
        plane.close()
        if shadows is not None:
            shadows.close()
        repository.close()


def _settings(arguments: argparse.Namespace, topics: Topics) -> StreamSettings:
    named = model_names(arguments)
    return StreamSettings(
        responses=arguments.reply_topic or topics.responses,
        deadletter=topics.deadletter,
        # Several models, and none of them is the one of --model_name: a request has to say which.
        model=named[0] if named and (arguments.model_dir or len(named) == 1) else "",
        reply_topics=tuple(arguments.allow_reply_topic),
        payloads=topics.payloads if arguments.log_payloads else "",
        service=arguments.inference_service,
        namespace=arguments.namespace,
        max_rows=arguments.max_batch_rows,
        in_flight=arguments.max_threads + 1,
    )
