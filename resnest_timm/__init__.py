"""Import this, and timm knows every released ResNeSt, under timm's names and the authors'.

timm's eight ResNeSt names are taken over: same weights, same numbers at output stride 32, and right where timm's copy
is not (stochastic depth, dilation, a batch of 1, `act_layer`).

    import resnest_timm, timm
    model = timm.create_model("resnest101", pretrained=True)
"""

from resnest_timm.block import ResNeStBottleneck
from resnest_timm.drop_block import add_drop_block
from resnest_timm.errors import OptimizeError
from resnest_timm.inference.optimize import optimize
from resnest_timm.preferences import record_splits, split_preferences
from resnest_timm.resnest import (
    resnest14,
    resnest14d,
    resnest26,
    resnest26d,
    resnest50,
    resnest50_fast_1s1x64d,
    resnest50_fast_1s2x40d,
    resnest50_fast_1s4x24d,
    resnest50_fast_2s1x64d,
    resnest50_fast_2s2x40d,
    resnest50_fast_4s1x64d,
    resnest50_fast_4s2x40d,
    resnest50d,
    resnest50d_1s4x24d,
    resnest50d_4s2x40d,
    resnest101,
    resnest101_fast,
    resnest101e,
    resnest152,
    resnest200,
    resnest200e,
    resnest269,
    resnest269e,
)
from resnest_timm.split_attention import SplitAttention
from resnest_timm.stock import stock_form
from resnest_timm.zoo.weights import WeightsError

__version__ = "0.1.0"

__all__ = [
    "OptimizeError",
    "ResNeStBottleneck",
    "SplitAttention",
    "WeightsError",
    "__version__",
    "add_drop_block",
    "optimize",
    "record_splits",
    "resnest14",
    "resnest14d",
    "resnest26",
    "resnest26d",
    "resnest50",
    "resnest50_fast_1s1x64d",
    "resnest50_fast_1s2x40d",
    "resnest50_fast_1s4x24d",
    "resnest50_fast_2s1x64d",
    "resnest50_fast_2s2x40d",
    "resnest50_fast_4s1x64d",
    "resnest50_fast_4s2x40d",
    "resnest50d",
    "resnest50d_1s4x24d",
    "resnest50d_4s2x40d",
    "resnest101",
    "resnest101_fast",
    "resnest101e",
    "resnest152",
    "resnest200",
    "resnest200e",
    "resnest269",
    "resnest269e",
    "split_preferences",
    "stock_form",
]
