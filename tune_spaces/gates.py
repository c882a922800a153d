"""Compare gates for pseudo-labels, with and without correction, by validation on the list of one round.

Command   sslsv tune tune_spaces/gates.py data.train_lists=[/full/path/runs/dlg_lc/lists/round_1] \
          data.held_out_lists=[voxceleb2_train_list] encoder.init=runs/ecapa_dino encoder.features.num_mels=80
          --plan prints the plan only; copy the winner's `model` into configs/pseudo_label/dlg_lc.yml
Data      VoxCeleb2 dev without labels; measured on held-out training speakers, the same in all trials
Hardware  one or more GPUs, one trial per GPU
Report    the metric for each gate: none, three thresholds, two Gaussians, two Gaussians with correction
Result    not yet run
"""

from sslsv.search import Space

SPACE = Space(
    base="configs/supervised/ecapa.yml",
    settings={"train.epochs": 30, "model.crop_seconds": 3.0},
    alternatives={
        "none": {"model.gate.name": "none"},
        "1": {"model.gate": {"name": "fixed", "threshold": 1.0}},
        "3": {"model.gate": {"name": "fixed", "threshold": 3.0}},
        "6": {"model.gate": {"name": "fixed", "threshold": 6.0}},
        "mixture": {"model.gate.name": "mixture"},
        "corrected": {"model.gate.name": "mixture", "model.correction": {"temperature": 0.05}},
    },
    parameters={},
    metric="eer",
    searcher="grid",
)
