"""Start a worker, send it some tasks, and print what comes back."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT_S = 60


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="celery-quickstart-") as folder:
        os.environ["QUICKSTART_FOLDER"] = folder
        os.chdir(HERE)
        sys.path.insert(0, str(HERE))
        from tasks import add, divide, flaky

        log = Path(folder, "worker.log")
        print("Starting a worker: celery -A tasks worker --loglevel INFO --concurrency 2")
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-l", "INFO", "-c", "2"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            started = time.monotonic()
            sums = [add.delay(n, n) for n in range(3)]
            print("add.delay(0, 0), add.delay(1, 1), add.delay(2, 2) were sent; the results:")
            for result in sums:
                print(f"    {result.id}: {result.get(timeout=TIMEOUT_S)}")

            print("flaky.delay() fails twice and asks to be retried:")
            print(f"    {flaky.delay().get(timeout=TIMEOUT_S)}")

            print("divide.delay(1, 0) fails; get() raises what the task raised:")
            failed = divide.delay(1, 0)
            try:
                failed.get(timeout=TIMEOUT_S)
            except ZeroDivisionError as exc:
                print(f"    {type(exc).__name__}: {exc} (state {failed.state})")
            print(
                f"All of it took {time.monotonic() - started:.1f} s, the worker's start included."
            )
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(timeout=TIMEOUT_S)
        print("What the worker logged:")
        for line in log.read_text().splitlines():
            if "Task tasks." in line:
                print(f"    {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
