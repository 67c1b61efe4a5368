"""The detector: arrays and artefacts; knows neither HTTP nor Redis."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported; its wheels tell Microsoft of every use
