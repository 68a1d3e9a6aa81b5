"""Reports of every command: screens, JSON, pictures."""
