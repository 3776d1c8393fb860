"""Parts of beat; `celery.beat` is the public face."""
