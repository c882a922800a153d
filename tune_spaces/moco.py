"""MoCo v2+: temperature, queue length, teacher momentum, learning rate and noise.

Command   sslsv tune tune_spaces/moco.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/moco.yml",
    parameters={
        "model.temperature": tune.loguniform(0.01, 0.3),
        "model.queue_length": tune.choice([8192, 32768, 65536]),
        "model.teacher_momentum": tune.choice([0.99, 0.996, 0.999]),
        "optimizer.learning_rate": tune.loguniform(1e-4, 5e-3),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
