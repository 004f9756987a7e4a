"""The Gradio Space of a published model."""
