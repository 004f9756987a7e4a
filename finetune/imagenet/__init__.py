"""The ILSVRC2012 tars -> parquet shards that `--dataset DIR` reads: `python -m finetune prepare-imagenet`.

`prepare.py` is the flow; it needs the extra `imagenet` (scipy, for the devkit's meta.mat).
"""
