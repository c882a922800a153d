"""Combiner: temperature of InfoNCE, weights of VICReg and of its covariance term, learning rate and noise.

Command   sslsv tune tune_spaces/combiner.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/combiner.yml",
    parameters={
        "model.embedding_terms.info_nce.temperature": tune.loguniform(0.01, 0.5),
        "model.projection_terms.vicreg.weight": tune.loguniform(0.03, 30.0),
        "model.projection_terms.vicreg.covariance_weight": tune.choice([0.04, 0.1, 0.5]),
        "optimizer.learning_rate": tune.loguniform(1e-4, 5e-3),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
