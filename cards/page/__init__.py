"""From result.json to the model card."""
