"""The commands of `lldwatch`, one file each: its arguments, and what it does."""
