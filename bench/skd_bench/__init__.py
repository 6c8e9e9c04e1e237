"""The scale: everything that runs on the device; numpy and one runtime, never torch."""
