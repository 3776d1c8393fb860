"""Commands of the ``celery`` program, one module each; they parse, call and print."""
