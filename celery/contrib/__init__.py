"""Additions to the library: testing support, debugging, migration, documentation."""
