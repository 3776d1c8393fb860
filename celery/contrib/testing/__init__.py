"""Support for tests of projects: apps, workers in a thread, message mocks."""
