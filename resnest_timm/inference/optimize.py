"""The inference form of a model: BatchNorm folded, the best layout and dtype for the device, compiled if asked for."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from resnest_timm.errors import OptimizeError
from resnest_timm.inference.folding import fold_norms
from resnest_timm.inference.hardware import has_fast_bf16
from resnest_timm.inference.onednn import is_channels_last, pack_convolutions
from resnest_timm.kernels.plain import is_transformed

Model = TypeVar("Model", bound=nn.Module)


def optimize(
    model: Model,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = True,
    compile: bool = False,
    input_size: tuple[int, int, int] | None = None,
) -> Model:
    """Copy a model into its inference form: the same outputs, sooner.

    Every BatchNorm that follows a convolution is folded into it, see `fold_norms`; other norms stay and are right. On
    CPUs, in channels_last, convolutions also keep their weights a second time, in the order that oneDNN computes with,
    and the last one of a block adds the shortcut, see `PackedConv2d`.

    The copy takes the place of the model: `forward_features`, `forward_head`, `num_classes`, `pretrained_cfg` and, with
    `features_only`, the list of maps and `feature_info` are there. It takes images of any floating dtype and layout,
    and a call returns outputs in the images' dtype, whatever the weights' dtype is; `forward_features` returns the
    weights' dtype, which `forward_head` takes.

    In float32 outputs agree within 1e-4 of the largest logit (rounding alone). bfloat16 has 8 bits of precision: a
    trained ResNeSt was seen to differ by 0.03 to 0.09 in its logits and by 1e-4 to 5e-4 in its loss. Compute numbers to
    be reported with `dtype=torch.float32`.

    It can be copied, pickled and optimised again. What is gone is this:

    | of the model | in the copy |
    |---|---|
    | train mode | a call in train mode raises |
    | gradients of the weights | no parameter needs one; gradients of the images are there |
    | a BatchNorm that was folded | `nn.Identity` of its name; its hooks get the normalised map, as input too |
    | a convolution before it | its output is the normalised map, for hooks too; it has a bias |
    | hooks that were there before | fire; norms and convolutions that have some are not folded |
    | hooks set on the copy | fire; a block with one at its last addition does that in more steps |
    | replaced modules | count |
    | weights changed in place, loaded, replaced | count; in convolutions not through `weight.data`: optimise again |
    | state dict | fits copies made in the same way, not the model |
    | `torch.jit.script` | raises; `torch.jit.trace` and `torch.export` work |
    | `torch.fx.symbolic_trace` | its graph leaves outputs in the weights' dtype |
    | with `compile=True` | hooks and weights that come later are not seen, there are no gradients at all |

    Args:
        model: Any network whose first layer is a convolution, on its device; images `[B, C, H, W]` -> a tensor or a
            list of them. It stays as it is.
        dtype: Of the copy's weights; when not given, bfloat16 where that is faster (see `has_fast_bf16`), else
            float32.
        channels_last: Keep maps in memory pixel by pixel (NHWC) instead of channel by channel: faster on CPUs, and on
            GPUs with tensor cores.
        compile: Compile calls (not `forward_features` alone) with inductor, weights frozen as constants: the first call
            and the first with another batch size take minutes, weights must not change any more, and calls compute no
            gradients, not even of the images. A copy or pickle of the result is not compiled: optimise it again. On
            CPUs inductor puts oneDNN's ReLU into convolutions, which makes 0 of NaN: an image with NaN gets logits that
            look sound, where the form that is not compiled returns NaN.
        input_size: C, H, W of an image that the model accepts; that of `pretrained_cfg` when not given.

    Returns:
        The copy, in eval mode, of the same class and on the same device.

    Raises:
        OptimizeError: `dtype` is no floating dtype, the model cannot be run on the device `meta`, or it is to be
            compiled and has NaN or infinite weights in `dtype`.
    """
    parameter = next(model.parameters(), torch.empty(0))
    if dtype is None:
        dtype = torch.bfloat16 if has_fast_bf16(parameter.device) else torch.float32
    if not dtype.is_floating_point:
        raise OptimizeError(f"dtype must be a floating dtype such as torch.bfloat16, got {dtype}")
    model = getattr(model, "_orig_mod", model)  # of what torch.compile returned
    with torch.inference_mode(False):  # tensors made there do not count their changes, see `PackedConv2d`
        optimized = copy.deepcopy(model).eval().requires_grad_(False)
        fold_norms(optimized, input_size)
        pack_convolutions(optimized)
        optimized.to(dtype)
        if channels_last:
            optimized.to(memory_format=torch.channels_last)
    _add_hooks(optimized)
    if compile:
        _check_finite(optimized)
        compile_frozen(optimized)
    return optimized


def _check_finite(model: nn.Module) -> None:
    """Refuse weights whose NaN the compiled form would hide, see `optimize`."""
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise OptimizeError(
                f"expected finite weights to compile, got NaN or infinity in {name} ({tensor.dtype}, norms folded): on "
                "CPUs the compiled form could make finite logits of them. Check the checkpoint; float16 ends at 65504"
            )


def _add_hooks(model: nn.Module) -> None:
    """Images to the dtype and layout of the first convolution, a call's outputs to the images' dtype."""
    if _refuse_train_mode in model._forward_pre_hooks.values():
        return  # optimised before
    model.register_forward_pre_hook(_refuse_train_mode)
    model.register_forward_hook(_to_dtype_of_input)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None:
        first.register_forward_pre_hook(_to_weight)


def _refuse_train_mode(model: nn.Module, args: tuple[Any, ...]) -> None:
    if model.training:
        raise OptimizeError(
            "expected eval mode, got an optimised model in train mode: its BatchNorms are folded away. Train the model "
            "that it was made from and optimise that again, or call .eval()"
        )


def _to_weight(convolution: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    weight: Any = convolution.weight
    transformed = not torch.compiler.is_compiling() and is_transformed(args[0])
    if not isinstance(weight, Tensor) or transformed:  # a tracer's stand-in; under vmap an image alone
        return (args[0].to(weight.dtype), *args[1:])
    layout = torch.channels_last if is_channels_last(weight) else torch.contiguous_format
    return (args[0].to(weight.dtype, memory_format=layout), *args[1:])


def _to_dtype_of_input(model: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
    (images, *_) = args
    return tree_map_only(Tensor, lambda tensor: tensor.to(images.dtype), out)


def compile_frozen(model: nn.Module) -> None:
    """Compile a model's calls in place, with its weights as constants; the calls then compute no gradients.

    Inductor freezes only what is compiled without gradients and while its global setting says so: as an option of one
    `torch.compile` (torch 2.15) it makes constants of the weights but leaves out the fused oneDNN convolutions.
    """
    from torch._inductor import config

    model.compile()
    compiled: Any = model._compiled_call_impl
    model._compiled_call_impl = config.patch(freezing=True)(torch.no_grad()(compiled))
