"""Every flag of every command, its checks, its presets: light to import, no torch."""
