"""Additions for Django projects."""
