"""A Django project for django-celery-beat, and what its users do with entries."""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings

from celery import Celery

settings.configure(
    INSTALLED_APPS=["django_celery_beat"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["PLUGIN_DATABASE"]}
    },
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

app = Celery("plugged", broker=os.environ["PLUGIN_BROKER"], backend="disabled://")
app.conf.task_default_queue = os.environ["PLUGIN_QUEUE"]
app.conf.beat_max_loop_interval = 1
app.conf.beat_schedule = {"given": {"task": "t.given", "schedule": 1.0}}

if __name__ == "__main__":
    from django.core.management import call_command
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    if sys.argv[1] == "migrate":
        call_command("migrate", verbosity=0)
    else:
        name, task, every = sys.argv[1:]
        if float(every):
            interval, _ = IntervalSchedule.objects.get_or_create(every=int(every), period="seconds")
            fields = {"task": task, "interval": interval, "args": f'["{name}"]'}
            PeriodicTask.objects.update_or_create(name=name, defaults=fields)
        else:
            PeriodicTask.objects.get(name=name).delete()
