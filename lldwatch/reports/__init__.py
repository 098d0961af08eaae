"""How diagnoses and comparisons are laid out: as text, HTML, Markdown."""
