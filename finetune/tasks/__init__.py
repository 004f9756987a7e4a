"""All that differs from task to task, one folder each; nothing outside asks which task it is."""
