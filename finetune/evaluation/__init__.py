"""From predictions to how good and how sure: intervals, calibration, published numbers, figures."""
