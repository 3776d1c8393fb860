"""
The signals of the library: what one may connect a function to.

Who sends each, and in which process, is told above each group.  Besides its arguments every
receiver gets ``signal`` and ``sender``.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = (
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "beat_embedded_init",
    "beat_init",
    "before_task_publish",
    "celeryd_after_setup",
    "celeryd_init",
    "eventlet_pool_apply",
    "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown",
    "eventlet_pool_started",
    "heartbeat_sent",
    "setup_logging",
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_success",
    "task_unknown",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
)


def _signal(name: str, *providing_args: str, robust: bool = True) -> Signal:
    return Signal(name=name, providing_args=providing_args, robust=robust)


# Whoever publishes a task.  The sender is the name of the task.
before_task_publish = _signal(
    "before_task_publish",
    "body",
    "exchange",
    "routing_key",
    "headers",
    "properties",
    "declare",
    "retry_policy",
)
after_task_publish = _signal("after_task_publish", "body", "exchange", "routing_key")
#: Former name of `after_task_publish`; deprecated.
task_sent = _signal("task_sent", "task_id", "task", "args", "kwargs", "eta", "taskset")

# The main process of the worker.  The sender is the consumer, of `task_revoked` the task.
task_received = _signal("task_received", "request")
task_rejected = _signal("task_rejected", "message", "exc")
task_unknown = _signal("task_unknown", "message", "exc", "name", "id")
task_revoked = _signal("task_revoked", "request", "terminated", "signum", "expired")

# The process that runs the task; `task_failure` also the main process, for tasks whose process was
# lost or killed.  The sender is the task.
task_prerun = _signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = _signal("task_postrun", "task_id", "task", "args", "kwargs", "retval")
task_success = _signal("task_success", "result", "runtime")
task_retry = _signal("task_retry", "request", "reason", "einfo")
task_failure = _signal(
    "task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo"
)
task_internal_error = _signal(
    "task_internal_error",
    "task_id",
    "args",
    "kwargs",
    "request",
    "exception",
    "traceback",
    "einfo",
)

# The worker while it starts: the sender is the node name.
celeryd_init = _signal("celeryd_init", "instance", "conf", "options")
celeryd_after_setup = _signal("celeryd_after_setup", "instance", "conf")

# The worker, its pool processes, and its services, over their lives.
import_modules = _signal("import_modules")
worker_init = _signal("worker_init")
worker_before_create_process = _signal("worker_before_create_process")
worker_process_init = _signal("worker_process_init")
worker_process_shutdown = _signal("worker_process_shutdown")
worker_ready = _signal("worker_ready")
worker_shutdown = _signal("worker_shutdown")
worker_shutting_down = _signal("worker_shutting_down")
heartbeat_sent = _signal("heartbeat_sent")

# Logging set-up.  A receiver of the first takes it over, so if that fails the program must not
# start without logs.
setup_logging = _signal("setup_logging", "loglevel", "logfile", "format", "colorize", robust=False)
after_setup_logger = _signal(
    "after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize"
)
after_setup_task_logger = _signal(
    "after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize"
)

# The scheduler.  The sender is the service.
beat_init = _signal("beat_init")
beat_embedded_init = _signal("beat_embedded_init")

# The pool of green threads.
eventlet_pool_started = _signal("eventlet_pool_started")
eventlet_pool_preshutdown = _signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = _signal("eventlet_pool_postshutdown")
eventlet_pool_apply = _signal("eventlet_pool_apply", "target", "args", "kwargs")

# The command line, once the options before the sub-command are known.
user_preload_options = _signal("user_preload_options", "app", "options")
