"""Runs in object stores: read through a mirror, and sent there while a training writes them."""
