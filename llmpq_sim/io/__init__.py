"""Readers and writers of files: one module a file kind."""
