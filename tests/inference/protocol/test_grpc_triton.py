"""The bytes of Triton's extensions, written by hand from the specification's field numbers."""

from __future__ import annotations

import pytest

from inference.protocol.datatypes import NUMPY
from inference.protocol.grpc_messages import MESSAGES

# name = 1, version_policy.all = 3.2, max_batch_size = 4, input = 5 {name = 1, data_type = 2, format = 3, dims = 4},
# output = 6 {name = 1, data_type = 2, dims = 3}, dynamic_batching = 11 {max_queue_delay_microseconds = 2},
# backend = 17, model_transaction_policy.decoupled = 19.1
CONFIG = (
    b"\x0a\x01m"
    b"\x12\x10onnxruntime_onnx"
    b"\x1a\x02\x12\x00"
    b"\x20\x08"
    b"\x2a\x0b\x0a\x01x\x10\x0b\x18\x02\x22\x02\x03\x04"
    b"\x32\x08\x0a\x01y\x10\x0d\x1a\x01\x02"
    b"\x5a\x05\x0a\x01\x04\x10\x07"
    b"\x8a\x01\x0bonnxruntime"
    b"\x9a\x01\x02\x08\x01"
)
# name = 1, version = 2, last_inference = 3, inference_count = 4, execution_count = 5, inference_stats = 6 {success = 1,
# fail = 2, queue = 3, compute_input = 4, compute_infer = 5, compute_output = 6}, batch_stats = 7 {batch_size = 1,
# compute_input = 2, compute_infer = 3, compute_output = 4}; a duration is count = 1 and ns = 2
STATISTICS = (
    b"\x0a\x01m\x12\x013\x18\x09\x20\x05\x28\x02"
    b"\x32\x24\x0a\x04\x08\x01\x10\x02\x12\x04\x08\x03\x10\x04\x1a\x04\x08\x05\x10\x06\x22\x04\x08\x07\x10\x08"
    b"\x2a\x04\x08\x09\x10\x0a\x32\x04\x08\x0b\x10\x0c"
    b"\x3a\x14\x08\x04\x12\x04\x08\x01\x10\x02\x1a\x04\x08\x03\x10\x04\x22\x04\x08\x05\x10\x06"
)


def _duration(count: int) -> dict[str, int]:
    return {"count": count, "ns": count + 1}


def test_a_configuration_is_written_as_specified() -> None:
    """Byte for byte."""
    config = {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"all": {}},
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [3, 4]}],
        "output": [{"name": "y", "data_type": "TYPE_STRING", "dims": [2]}],
        "dynamic_batching": {"preferred_batch_size": [4], "max_queue_delay_microseconds": 7},
        "model_transaction_policy": {"decoupled": True},
    }
    written = MESSAGES.of("ModelConfigResponse")(config=config).SerializeToString(deterministic=True)

    assert written == b"\x0a" + bytes([len(CONFIG)]) + CONFIG


def test_statistics_are_written_as_specified() -> None:
    """Byte for byte."""
    told = {
        "name": "m",
        "version": "3",
        "last_inference": 9,
        "inference_count": 5,
        "execution_count": 2,
        "inference_stats": {
            name: _duration(count)
            for name, count in zip(
                ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"), range(1, 12, 2),
                strict=True,
            )
        },
        "batch_stats": [
            {
                "batch_size": 4, "compute_input": _duration(1), "compute_infer": _duration(3),
                "compute_output": _duration(5),
            }
        ],
        "response_stats": {},
        "memory_usage": [],
    }  # fmt: skip
    written = MESSAGES.of("ModelStatisticsResponse")(model_stats=[told]).SerializeToString(deterministic=True)

    assert written == b"\x0a" + bytes([len(STATISTICS)]) + STATISTICS


@pytest.mark.parametrize("datatype", NUMPY)
def test_every_datatype_has_triton_s_name(datatype: str) -> None:
    """What a tensor can be, a configuration can say."""
    names = MESSAGES.of("ModelInput").DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name

    assert ("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}") in names
