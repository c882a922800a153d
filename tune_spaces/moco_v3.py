"""MoCo v3: temperature, predictor size, teacher momentum, learning rate and noise.

Command   sslsv tune tune_spaces/moco_v3.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/moco_v3.yml",
    parameters={
        "model.temperature": tune.loguniform(0.03, 1.0),
        "model.predictor_dims": tune.choice([[1024, 256], [4096, 256]]),
        "model.teacher_momentum": tune.choice([0.99, 0.996, 0.999]),
        "optimizer.learning_rate": tune.loguniform(0.05, 2.0),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
