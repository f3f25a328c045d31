"""The messages of `inference.GRPCInferenceService`: names, field numbers and types, as data.

Source: Open Inference Protocol v2, "GRPC"; Triton, grpc_service.proto (repository, configuration, statistics, stream).
Of a model's configuration only the fields of `metadata.model_config` are included; readers ignore missing ones.
"""

from __future__ import annotations

PACKAGE = "inference"

MESSAGES: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("1 live bool",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("1 ready bool",),
    "ModelReadyRequest": ("1 name string", "2 version string"),
    "ModelReadyResponse": ("1 ready bool",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("1 name string", "2 version string", "3 extensions string*"),
    "ModelMetadataRequest": ("1 name string", "2 version string"),
    "ModelMetadataResponse.TensorMetadata": ("1 name string", "2 datatype string", "3 shape int64*"),
    "ModelMetadataResponse": (
        "1 name string",
        "2 versions string*",
        "3 platform string",
        "4 inputs ModelMetadataResponse.TensorMetadata*",
        "5 outputs ModelMetadataResponse.TensorMetadata*",
    ),
    "InferParameter": (
        "1 bool_param bool |parameter_choice",
        "2 int64_param int64 |parameter_choice",
        "3 string_param string |parameter_choice",
        "4 double_param double |parameter_choice",
        "5 uint64_param uint64 |parameter_choice",
    ),
    "InferTensorContents": (
        "1 bool_contents bool*",
        "2 int_contents int32*",
        "3 int64_contents int64*",
        "4 uint_contents uint32*",
        "5 uint64_contents uint64*",
        "6 fp32_contents float*",
        "7 fp64_contents double*",
        "8 bytes_contents bytes*",
    ),
    "ModelInferRequest.InferInputTensor": (
        "1 name string",
        "2 datatype string",
        "3 shape int64*",
        "4 parameters InferParameter{}",
        "5 contents InferTensorContents",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": ("1 name string", "2 parameters InferParameter{}"),
    "ModelInferRequest": (
        "1 model_name string",
        "2 model_version string",
        "3 id string",
        "4 parameters InferParameter{}",
        "5 inputs ModelInferRequest.InferInputTensor*",
        "6 outputs ModelInferRequest.InferRequestedOutputTensor*",
        "7 raw_input_contents bytes*",
    ),
    "ModelInferResponse.InferOutputTensor": (
        "1 name string",
        "2 datatype string",
        "3 shape int64*",
        "4 parameters InferParameter{}",
        "5 contents InferTensorContents",
    ),
    "ModelInferResponse": (
        "1 model_name string",
        "2 model_version string",
        "3 id string",
        "4 parameters InferParameter{}",
        "5 outputs ModelInferResponse.InferOutputTensor*",
        "6 raw_output_contents bytes*",
    ),
    "ModelStreamInferResponse": ("1 error_message string", "2 infer_response ModelInferResponse"),
    "ModelConfigRequest": ("1 name string", "2 version string"),
    "ModelInput": ("1 name string", "2 data_type DataType", "4 dims int64*"),
    "ModelOutput": ("1 name string", "2 data_type DataType", "3 dims int64*"),
    "ModelDynamicBatching": ("2 max_queue_delay_microseconds uint64",),
    "ModelConfig": (
        "1 name string",
        "2 platform string",
        "4 max_batch_size int32",
        "5 input ModelInput*",
        "6 output ModelOutput*",
        "11 dynamic_batching ModelDynamicBatching |scheduling_choice",
        "17 backend string",
    ),
    "ModelConfigResponse": ("1 config ModelConfig",),
    "ModelStatisticsRequest": ("1 name string", "2 version string"),
    "StatisticDuration": ("1 count uint64", "2 ns uint64"),
    "InferStatistics": (
        "1 success StatisticDuration",
        "2 fail StatisticDuration",
        "3 queue StatisticDuration",
        "4 compute_input StatisticDuration",
        "5 compute_infer StatisticDuration",
        "6 compute_output StatisticDuration",
        "7 cache_hit StatisticDuration",
        "8 cache_miss StatisticDuration",
    ),
    "InferBatchStatistics": (
        "1 batch_size uint64",
        "2 compute_input StatisticDuration",
        "3 compute_infer StatisticDuration",
        "4 compute_output StatisticDuration",
    ),
    "ModelStatistics": (
        "1 name string",
        "2 version string",
        "3 last_inference uint64",
        "4 inference_count uint64",
        "5 execution_count uint64",
        "6 inference_stats InferStatistics",
        "7 batch_stats InferBatchStatistics*",
    ),
    "ModelStatisticsResponse": ("1 model_stats ModelStatistics*",),
    "ModelRepositoryParameter": (
        "1 bool_param bool |parameter_choice",
        "2 int64_param int64 |parameter_choice",
        "3 string_param string |parameter_choice",
        "4 bytes_param bytes |parameter_choice",
    ),
    "RepositoryIndexRequest": ("1 repository_name string", "2 ready bool"),
    "RepositoryIndexResponse.ModelIndex": ("1 name string", "2 version string", "3 state string", "4 reason string"),
    "RepositoryIndexResponse": ("1 models RepositoryIndexResponse.ModelIndex*",),
    "RepositoryModelLoadRequest": (
        "1 repository_name string",
        "2 model_name string",
        "3 parameters ModelRepositoryParameter{}",
    ),
    "RepositoryModelLoadResponse": (),
    "RepositoryModelUnloadRequest": (
        "1 repository_name string",
        "2 model_name string",
        "3 parameters ModelRepositoryParameter{}",
    ),
    "RepositoryModelUnloadResponse": (),
    "SystemSharedMemoryStatusRequest": ("1 name string",),
    "SystemSharedMemoryStatusResponse": (),  # a map of regions, which is always empty
    "SystemSharedMemoryUnregisterRequest": ("1 name string",),
    "SystemSharedMemoryUnregisterResponse": (),
    "CudaSharedMemoryStatusRequest": ("1 name string",),
    "CudaSharedMemoryStatusResponse": (),
    "CudaSharedMemoryUnregisterRequest": ("1 name string",),
    "CudaSharedMemoryUnregisterResponse": (),
}
"""Fields of each message (nested ones as `Outer.Inner`, before `Outer` is used): `NUMBER NAME TYPE`, where the type has
`*` for a repeated field, `{}` for a map from strings, and `|NAME` for a member of a oneof."""

ENUMS: dict[str, tuple[str, ...]] = {
    "DataType": (
        "TYPE_INVALID",
        "TYPE_BOOL",
        "TYPE_UINT8",
        "TYPE_UINT16",
        "TYPE_UINT32",
        "TYPE_UINT64",
        "TYPE_INT8",
        "TYPE_INT16",
        "TYPE_INT32",
        "TYPE_INT64",
        "TYPE_FP16",
        "TYPE_FP32",
        "TYPE_FP64",
        "TYPE_STRING",
        "TYPE_BF16",
    ),
}
"""Names of the values, from 0 on."""
