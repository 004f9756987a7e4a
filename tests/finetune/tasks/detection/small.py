"""Detectors that look at few regions: their heads are what takes a CPU's time."""

REGIONS = 32


def small(model):
    """The same detector, with as many anchors and regions drawn, proposed and found as `REGIONS`."""
    if not model.layout.one_stage:
        for part in (model.rpn, model.roi_heads):
            part.fg_bg_sampler.batch_size_per_image = REGIONS
        for limits in (model.rpn._pre_nms_top_n, model.rpn._post_nms_top_n):
            limits.update(training=2 * REGIONS, testing=REGIONS)
    return model
