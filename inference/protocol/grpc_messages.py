"""The Open Inference Protocol's gRPC messages, as tables. Pure. Next: `grpc_codec.py`, which reads and writes them.

Sources: the field tables of the Open Inference Protocol's gRPC specification; for loading, unloading, the index and
streams, which it lacks, those of KServe's and Triton's model repository extensions and of Triton's ModelStreamInfer.
Triton's statistics and model configuration are `grpc_triton.py`'s.
"""

from __future__ import annotations

from typing import Any, Final

from inference.protocol import grpc_triton
from inference.protocol.grpc_schema import Messages, Schema

SERVICE: Final = "inference.GRPCInferenceService"

_PARAMETERS: Final = "parameters map InferParameter"
_SCHEMA: Final = Schema(
    file="inference.proto",
    package="inference",
    messages={
        "ServerLiveRequest": (),
        "ServerLiveResponse": ("1 live bool",),
        "ServerReadyRequest": (),
        "ServerReadyResponse": ("1 ready bool",),
        "ModelReadyRequest": ("1 name string", "2 version string"),
        "ModelReadyResponse": ("1 ready bool",),
        "ServerMetadataRequest": (),
        "ServerMetadataResponse": ("1 name string", "2 version string", "3 extensions *string"),
        "ModelMetadataRequest": ("1 name string", "2 version string"),
        "ModelMetadataResponse": (
            "1 name string", "2 versions *string", "3 platform string",
            "4 inputs *ModelMetadataResponse.TensorMetadata", "5 outputs *ModelMetadataResponse.TensorMetadata",
        ),
        "ModelMetadataResponse.TensorMetadata": ("1 name string", "2 datatype string", "3 shape *int64"),
        "InferParameter": (
            "parameter_choice:", "1 bool_param bool", "2 int64_param int64", "3 string_param string",
            "4 double_param double", "5 uint64_param uint64",
        ),
        "InferTensorContents": (
            "1 bool_contents *bool", "2 int_contents *int32", "3 int64_contents *int64", "4 uint_contents *uint32",
            "5 uint64_contents *uint64", "6 fp32_contents *float", "7 fp64_contents *double", "8 bytes_contents *bytes",
        ),
        "ModelInferRequest": (
            "1 model_name string", "2 model_version string", "3 id string", f"4 {_PARAMETERS}",
            "5 inputs *ModelInferRequest.InferInputTensor", "6 outputs *ModelInferRequest.InferRequestedOutputTensor",
            "7 raw_input_contents *bytes",
        ),
        "ModelInferRequest.InferInputTensor": (
            "1 name string", "2 datatype string", "3 shape *int64", f"4 {_PARAMETERS}",
            "5 contents InferTensorContents",
        ),
        "ModelInferRequest.InferRequestedOutputTensor": ("1 name string", f"2 {_PARAMETERS}"),
        "ModelInferResponse": (
            "1 model_name string", "2 model_version string", "3 id string", f"4 {_PARAMETERS}",
            "5 outputs *ModelInferResponse.InferOutputTensor", "6 raw_output_contents *bytes",
        ),
        "ModelInferResponse.InferOutputTensor": (
            "1 name string", "2 datatype string", "3 shape *int64", f"4 {_PARAMETERS}",
            "5 contents InferTensorContents",
        ),
        "ModelStreamInferResponse": ("1 error_message string", "2 infer_response ModelInferResponse"),
        "ModelRepositoryParameter": (
            "parameter_choice:", "1 bool_param bool", "2 int64_param int64", "3 string_param string",
            "4 bytes_param bytes",
        ),
        # KServe's requests have the model's name in field 1; Triton's have a repository's there, and the name in 2.
        "RepositoryModelLoadRequest": (
            "1 model_name string", "2 name_in_repository string", "3 parameters map ModelRepositoryParameter",
        ),
        "RepositoryModelLoadResponse": ("1 model_name string", "2 isLoaded bool"),
        "RepositoryModelUnloadRequest": (
            "1 model_name string", "2 name_in_repository string", "3 parameters map ModelRepositoryParameter",
        ),
        "RepositoryModelUnloadResponse": ("1 model_name string", "2 isUnloaded bool"),
        "RepositoryIndexRequest": ("1 repository_name string", "2 ready bool"),
        "RepositoryIndexResponse": ("1 models *RepositoryIndexResponse.ModelIndex",),
        "RepositoryIndexResponse.ModelIndex": (
            "1 name string", "2 version string", "3 state string", "4 reason string",
        ),
    } | grpc_triton.MESSAGES,
    enums=grpc_triton.ENUMS,
    services={
        "GRPCInferenceService": {
            "ServerLive": ("ServerLiveRequest", "ServerLiveResponse"),
            "ServerReady": ("ServerReadyRequest", "ServerReadyResponse"),
            "ModelReady": ("ModelReadyRequest", "ModelReadyResponse"),
            "ServerMetadata": ("ServerMetadataRequest", "ServerMetadataResponse"),
            "ModelMetadata": ("ModelMetadataRequest", "ModelMetadataResponse"),
            "ModelInfer": ("ModelInferRequest", "ModelInferResponse"),
            "ModelStreamInfer": ("stream ModelInferRequest", "stream ModelStreamInferResponse"),
            "RepositoryModelLoad": ("RepositoryModelLoadRequest", "RepositoryModelLoadResponse"),
            "RepositoryModelUnload": ("RepositoryModelUnloadRequest", "RepositoryModelUnloadResponse"),
            "RepositoryIndex": ("RepositoryIndexRequest", "RepositoryIndexResponse"),
        } | grpc_triton.METHODS
    },
)  # fmt: skip

MESSAGES: Final = Messages(_SCHEMA)

ModelInferRequest: Final[Any] = MESSAGES.of("ModelInferRequest")
ModelInferResponse: Final[Any] = MESSAGES.of("ModelInferResponse")
ModelStreamInferResponse: Final[Any] = MESSAGES.of("ModelStreamInferResponse")
