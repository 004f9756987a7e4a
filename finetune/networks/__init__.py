"""From a model's name to a network; frozen backbones, their features, and the linear probe on them."""
