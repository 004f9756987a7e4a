"""The inference form of a model: folded, compiled, in the layout and dtype that are fastest here."""
