"""Everything that runs on the device: decoding, inference, benchmarks. Needs numpy and one runtime, never torch."""
