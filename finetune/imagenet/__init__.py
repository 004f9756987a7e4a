"""The ILSVRC2012 tars -> parquet shards that `--dataset DIR` reads: `python -m finetune prepare-imagenet`."""
