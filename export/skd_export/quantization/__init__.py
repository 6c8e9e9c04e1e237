"""Lower precision: calibration, INT8 and FP16 conversion, and the cost of INT8 for each layer."""
