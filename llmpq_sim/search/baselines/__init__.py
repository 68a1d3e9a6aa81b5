"""Plans that others would make."""
