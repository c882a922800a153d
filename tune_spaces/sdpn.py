"""SDPN: number and learning rate of prototypes, teacher temperature, MeMax and KoLeo weights, optimizer rate.

Command   sslsv tune tune_spaces/sdpn.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/sdpn.yml",
    parameters={
        "model.num_prototypes": tune.choice([512, 1024, 4096]),
        "model.teacher_temperature": tune.choice([0.0125, 0.025, 0.05]),
        "model.memax_weight": tune.choice([0.5, 1.0, 4.0]),
        "model.koleo_weight": tune.choice([0.0, 0.03, 0.1, 0.3]),
        "model.prototype_rate_scale": tune.choice([1.0, 4.0]),
        "optimizer.learning_rate": tune.loguniform(0.1, 1.5),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(17, 50),  # of 150
)
