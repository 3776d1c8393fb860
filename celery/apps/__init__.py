"""Set-up of the processes that run as programs: worker, beat and clusters of workers."""
