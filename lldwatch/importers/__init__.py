"""Foreign logs: one file a format, each with its table METRICS (their name -> ours); nothing is dropped unsaid."""
