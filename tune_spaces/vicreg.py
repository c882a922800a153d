"""VICReg: weights of its terms, projector, learning rate and noise.

Command   sslsv tune tune_spaces/vicreg.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev without labels; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/vicreg.yml",
    parameters={
        # Only ratios of the weights matter, given the learning rate, so the invariance weight stays at 1.
        "model.variance_weight": tune.loguniform(0.1, 10.0),
        "model.covariance_weight": tune.loguniform(0.01, 1.0),
        "model.projector_dims": tune.choice([[512, 512, 512], [2048, 2048, 512], [2048, 2048, 2048]]),
        "optimizer.learning_rate": tune.loguniform(1e-4, 5e-3),
        "data.augment.noise.probability": tune.quniform(0.5, 1.0, 0.1),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    tries_base_first=True,
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
