"""From `model/` to the Hub, in one commit or not at all."""
