"""Whole trainings to copy from; each runs on a CPU in seconds and is run by the tests."""
