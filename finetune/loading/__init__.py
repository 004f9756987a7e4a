"""From rows to batches: decoding, transforms, samplers, data modules, streams."""
