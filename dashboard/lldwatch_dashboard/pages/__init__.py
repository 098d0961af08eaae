"""The pages of the dashboard, one file each: what stands on it, and what happens when."""
