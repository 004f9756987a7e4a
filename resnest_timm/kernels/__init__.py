"""The sum over splits in one pass through memory: PyTorch's form, and Triton's."""
