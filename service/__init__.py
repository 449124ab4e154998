import os

# Official builds of ONNX Runtime report sessions and models to Microsoft from version 1.29 on, and keep a device
# identifier in the home. Only this variable keeps them from all of it, and only if it is set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
