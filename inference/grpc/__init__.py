"""The gRPC transport: the Open Inference Protocol's service, with reflection and health, thin above the data plane."""
