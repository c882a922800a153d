"""Label-efficient fine-tuning: seven fractions, fine-tuned, frozen and from scratch; 21 trials.

Command   sslsv tune tune_spaces/label_efficient.py encoder.init=RUN --plan
          prints the plan; without --plan it runs
Data      VoxCeleb2 dev; measured on held-out training speakers, the same in all trials
Hardware  one or more GPUs, one trial per GPU
Report    the metric as a function of data.fraction, one line per way
Result    not yet run
"""

from ray import tune

from sslsv.search import Space

SPACE = Space(
    base="configs/supervised/label_efficient.yml",
    alternatives={
        "fine-tuned": {"encoder.frozen": False, "encoder.rate_scale": 0.1},  # new classes keep the full rate
        "frozen": {"encoder.frozen": True, "encoder.rate_scale": 1.0},
        "from scratch": {"encoder.init": None, "encoder.frozen": False, "encoder.rate_scale": 1.0},
    },
    parameters={"data.fraction": tune.grid_search([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])},
    metric="eer",
    searcher="grid",
)
