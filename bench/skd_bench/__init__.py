"""Everything that runs on the device: decoding, inference, benchmarks. Needs numpy and one runtime, never torch.

Importing this package, which every part of skd-edge does before it imports a runtime, a hub library or Ray, turns off
what these report to their makers. ONNX Runtime 1.32 would keep an identifier of the machine and a database of events in
the user's cache, to be uploaded. A variable that the user has set stays as it is; child processes inherit all of them.
"""

import os

for _name, _value in (
    ("ORT_DISABLE_TELEMETRY", "1"),  # read when onnxruntime is imported; openvino: see runtimes/openvino.py
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("DO_NOT_TRACK", "1"),
):
    os.environ.setdefault(_name, _value)
