"""Runs the authors' released code (`resnest` 0.0.5) in an environment of its own, and saves weights and logits.

Called with that environment's interpreter: `authors.py torch|gluon FOLDER [NAME ...]`. Imports nothing of this project.
For each NAME it writes the checkpoint as the authors' users have it (`NAME.pth`, `NAME.params`), the images and the
float64 logits of the network with those weights (`NAME.npz`).
"""

import sys
from pathlib import Path

import numpy as np


def images(size: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    contrast, brightness = generator.uniform(0.5, 2, (2, 2, 3, 1, 1))
    return generator.standard_normal((2, 3, size, size)) * contrast + brightness


def values(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """float32 weights; no norm is left as it starts, and the last of each block stays small."""
    noise = generator.standard_normal(shape)
    if name.endswith(("running_var",)):
        noise = np.abs(1 + 0.3 * noise) + 0.1
    elif name.endswith(("bias", "beta", "running_mean")):
        noise = 0.2 * noise
    elif len(shape) == 1:  # a norm's weight
        noise = (0.15 if ".bn3." in name else 1.0) + 0.05 * noise
    else:
        noise = noise * np.prod(shape[1:]) ** -0.5
    return noise.astype(np.float32)


def run_torch(folder: Path, names: list[str]) -> None:
    import resnest.torch
    import torch

    x = torch.from_numpy(images(64))
    for name in names:
        build, generator = getattr(resnest.torch, name), np.random.default_rng(1)
        state = build().state_dict()
        for key, tensor in state.items():
            if tensor.is_floating_point():
                state[key] = torch.from_numpy(values(key, tuple(tensor.shape), generator))
        torch.save(state, folder / f"{name}.pth")
        forms = {"logits": {}} | (
            {"dilated": {"dilated": True}, "dilation_2": {"dilation": 2}} if name in ("resnest50", names[-1]) else {}
        )
        logits = {}
        for form, arguments in forms.items():
            model = build(**arguments)
            model.load_state_dict(state)
            with torch.no_grad():
                logits[form] = model.double().eval()(x).numpy()
        np.savez(folder / f"{name}.npz", images=x.numpy(), **logits)


def run_gluon(folder: Path, names: list[str]) -> None:
    import mxnet as mx
    import resnest.gluon

    x = images(64)
    for name in names:
        net, generator = getattr(resnest.gluon, name)(), np.random.default_rng(2)
        net.initialize()
        for key, parameter in net._collect_params_with_prefix().items():
            parameter.set_data(mx.nd.array(values(key, parameter.shape, generator), dtype="float32"))
        net.save_parameters(str(folder / f"{name}.params"))
        net.cast("float64")
        logits = net(mx.nd.array(x, dtype="float64")).asnumpy()
        np.savez(folder / f"{name}.npz", images=x, logits=logits)


if __name__ == "__main__":
    {"torch": run_torch, "gluon": run_gluon}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
