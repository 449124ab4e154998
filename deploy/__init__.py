import service  # noqa: F401  # Before ONNX Runtime, whose telemetry it turns off.
