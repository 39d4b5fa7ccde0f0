"""The messages of Triton's statistics and model configuration extensions, as tables. Pure.

Of the configuration only those fields that a server other than Triton has something to say in. Sources: the tables of
the two extensions, and the field numbers of Triton's ModelConfig. Part of `grpc_messages.py`.
"""

from __future__ import annotations

from typing import Final

_DURATION: Final = "StatisticDuration"

MESSAGES: Final = {
    "ModelConfigRequest": ("1 name string", "2 version string"),
    "ModelConfigResponse": ("1 config ModelConfig",),
    "ModelConfig": (
        "1 name string", "2 platform string", "17 backend string", "3 version_policy ModelVersionPolicy",
        "4 max_batch_size int32", "5 input *ModelInput", "6 output *ModelOutput",
        "19 model_transaction_policy ModelTransactionPolicy",
        "scheduling_choice:", "11 dynamic_batching ModelDynamicBatching",
    ),
    "ModelVersionPolicy": (
        "policy_choice:", "1 latest ModelVersionPolicy.Latest", "2 all ModelVersionPolicy.All",
    ),
    "ModelVersionPolicy.Latest": ("1 num_versions uint32",),
    "ModelVersionPolicy.All": (),
    "ModelInput": ("1 name string", "2 data_type DataType", "3 format ModelInput.Format", "4 dims *int64"),
    "ModelOutput": ("1 name string", "2 data_type DataType", "3 dims *int64"),
    "ModelDynamicBatching": ("1 preferred_batch_size *int32", "2 max_queue_delay_microseconds uint64"),
    "ModelTransactionPolicy": ("1 decoupled bool",),
    "ModelStatisticsRequest": ("1 name string", "2 version string"),
    "ModelStatisticsResponse": ("1 model_stats *ModelStatistics",),
    "ModelStatistics": (
        "1 name string", "2 version string", "3 last_inference uint64", "4 inference_count uint64",
        "5 execution_count uint64", "6 inference_stats InferStatistics", "7 batch_stats *InferBatchStatistics",
        "8 memory_usage *MemoryUsage", "9 response_stats map InferResponseStatistics",
    ),
    "StatisticDuration": ("1 count uint64", "2 ns uint64"),
    "InferStatistics": (
        f"1 success {_DURATION}", f"2 fail {_DURATION}", f"3 queue {_DURATION}", f"4 compute_input {_DURATION}",
        f"5 compute_infer {_DURATION}", f"6 compute_output {_DURATION}", f"7 cache_hit {_DURATION}",
        f"8 cache_miss {_DURATION}",
    ),
    "InferResponseStatistics": (
        f"1 compute_infer {_DURATION}", f"2 compute_output {_DURATION}", f"3 success {_DURATION}",
        f"4 fail {_DURATION}", f"5 empty_response {_DURATION}", f"6 cancel {_DURATION}",
    ),
    "InferBatchStatistics": (
        "1 batch_size uint64", f"2 compute_input {_DURATION}", f"3 compute_infer {_DURATION}",
        f"4 compute_output {_DURATION}",
    ),
    "MemoryUsage": ("1 type string", "2 id int64", "3 byte_size uint64"),
}  # fmt: skip

ENUMS: Final = {
    "DataType": (
        "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
        "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
    ),
    "ModelInput.Format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
}  # fmt: skip

METHODS: Final = {
    "ModelConfig": ("ModelConfigRequest", "ModelConfigResponse"),
    "ModelStatistics": ("ModelStatisticsRequest", "ModelStatisticsResponse"),
}
