"""Numbers of a multi-label classifier: what was predicted, scores, intervals, calibration."""
