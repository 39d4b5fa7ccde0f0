"""The predictor behind a transformer: asked over V1, V2 or gRPC, as KServe's `--predictor_*` flags say."""
