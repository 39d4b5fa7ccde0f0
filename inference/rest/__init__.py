"""The REST transport: V1 and V2 over HTTP, thin above the data plane."""
