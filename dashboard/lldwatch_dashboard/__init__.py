"""The lldwatch dashboard."""
