"""Self-supervised speaker verification on Ray."""

import os
import sys

__version__ = "0.1.0"

# sys.argv[0] is "-m" while Python locates the module of `python -m sslsv.train`.
if os.path.basename("".join(sys.argv[:1])) in ("-m", "sslsv"):
    # A Ctrl-C during the imports of a command ends it without a traceback.
    sys.excepthook = lambda kind, error, trace: (
        os._exit(130) if kind is KeyboardInterrupt else sys.__excepthook__(kind, error, trace)
    )

# Ray reads these variables when it is imported or started, so they are set before any module imports Ray.
for _name, _value in {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # clusters started by a command listen on 127.0.0.1 only
    "RAY_worker_niceness": "0",  # Ray would give all workers one priority; cluster/connect.py sets it by role
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray would prestart two workers that stay unused, because our workers need other environment variables.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an extra process; the first training worker watches
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # time until Ray notices that a worker has ended
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # then `fit` chooses the number of workers again
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default, which avoids a warning
}.items():
    os.environ.setdefault(_name, _value)

# State tracking stays off: its actor would show the job and its W&B key to everyone in the cluster.
os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"
