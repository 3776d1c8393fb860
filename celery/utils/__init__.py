"""The ground layer: helpers that know neither tasks nor apps, and the names old code finds here."""

from typing import TYPE_CHECKING

from celery.local import names_on_demand

if TYPE_CHECKING:
    from kombu.utils.functional import memoize
    from kombu.utils.objects import cached_property
    from kombu.utils.uuid import uuid, uuid as gen_unique_id

    from celery.utils.functional import chunks, noop
    from celery.utils.imports import (
        gen_task_name,
        import_from_cwd,
        instantiate,
        qualname as get_full_cls_name,
        symbol_by_name as get_cls_by_name,
    )
    from celery.utils.log import LOG_LEVELS
    from celery.utils.nodenames import nodename, nodesplit, worker_direct

__all__ = (
    "LOG_LEVELS",
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "get_cls_by_name",
    "get_full_cls_name",
    "import_from_cwd",
    "instantiate",
    "memoize",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
    "worker_direct",
)

# Whoever imports one module of this package should not pay for all of them.
__getattr__ = names_on_demand(
    __name__,
    {
        "LOG_LEVELS": "celery.utils.log:LOG_LEVELS",
        "cached_property": "kombu.utils.objects:cached_property",
        "chunks": "celery.utils.functional:chunks",
        "gen_task_name": "celery.utils.imports:gen_task_name",
        "gen_unique_id": "kombu.utils.uuid:uuid",
        "get_cls_by_name": "celery.utils.imports:symbol_by_name",
        "get_full_cls_name": "celery.utils.imports:qualname",
        "import_from_cwd": "celery.utils.imports:import_from_cwd",
        "instantiate": "celery.utils.imports:instantiate",
        "memoize": "kombu.utils.functional:memoize",
        "nodename": "celery.utils.nodenames:nodename",
        "nodesplit": "celery.utils.nodenames:nodesplit",
        "noop": "celery.utils.functional:noop",
        "uuid": "kombu.utils.uuid:uuid",
        "worker_direct": "celery.utils.nodenames:worker_direct",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
