"""lldwatch in the trainers that people have: one file for each, and what they share.

`environment` reads the settings of a training that was not touched, `guard` keeps every exception of ours away from it.
"""
