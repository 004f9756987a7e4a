"""How good a segmentation is: counts gathered, numbers with intervals, figures."""
