"""A search of a few minutes on synthetic speakers: SimCLR's temperature, learning rate and augmentation.

Command   sslsv prepare_data demo data/demo && sslsv tune tune_spaces/demo.py
Data      the demo corpus: synthetic voices in simulated rooms
Hardware  two CPU cores
"""

from ray import tune

from sslsv.search import Halving, Space

SPACE = Space(
    base="configs/demo.yml",
    settings={"train.epochs": 12, "evaluation.every_epochs": 4},
    parameters={
        "model.temperature": tune.loguniform(0.03, 0.5),
        "optimizer.learning_rate": tune.loguniform(3e-4, 1e-2),
        "data.augment.noise.probability": tune.uniform(0.0, 1.0),
    },
    metric="eer",
    trials=9,
    scheduler=Halving(reduction=3),
    rung_epochs=(4, 8),
)
