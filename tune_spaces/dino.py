"""DINO: teacher temperature, momentum of teacher and centre, number of prototypes, learning rate and noise.

Command   sslsv tune tune_spaces/dino.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/dino.yml",
    settings={"model.temperature_warmup_epochs": 16},  # from 0.04
    parameters={
        "model.teacher_temperature": tune.choice([0.04, 0.05, 0.07]),
        "model.teacher_momentum": tune.choice([0.99, 0.996, 0.999]),
        "model.centre_momentum": tune.choice([0.9, 0.99]),
        "model.num_prototypes": tune.choice([8192, 65536]),
        "optimizer.learning_rate": tune.loguniform(0.03, 0.5),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(9, 27),  # of 80
)
