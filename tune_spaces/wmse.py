"""W-MSE: projector, group size, partitions, shrinkage, learning rate and noise.

Command   sslsv tune tune_spaces/wmse.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/wmse.yml",
    parameters={
        "model.projector_dims": tune.choice([[1024, 32], [1024, 64], [2048, 64]]),
        "model.group_size": tune.choice([128, 256]),
        "model.num_partitions": tune.choice([1, 4]),
        "model.shrinkage": tune.loguniform(1e-6, 0.1),
        "optimizer.learning_rate": tune.loguniform(1e-4, 5e-3),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
