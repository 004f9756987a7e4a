"""Scripts that load a model's folder in a process of their own, with libraries that know nothing of this project.

Each reads `{"model": FOLDER, "verify": FOLDER, "output": FILE.npz}` from standard input. It writes float32 `[n, C]`
arrays to the file: `logits` of the `pixels` in `verify/inputs.safetensors`, and `own` of the images in `verify/images`
after its own library's preprocessing. It prints JSON: `version`, `classes`, and `known`, those of our packages that
were imported all the same.
"""
