"""Import an encoder: `sslsv import_encoder FILE --from PROJECT --out RUN [key=value ...]`.

FILE is a checkpoint of SpeechBrain, wespeaker, 3D-Speaker or theolepage/sslsv (`upstream`). RUN becomes a run
folder for evaluate, verify, embed, export and `encoder.init`. Give settings that the file does not contain as
key=value: encoder.features.window=hann, or data.root=DATA evaluation.validation=LIST for calibration. The
default of --labels is unused for `upstream` and for students and teachers of 3D-Speaker, and used otherwise.
"""

import argparse
import os
import sys
from typing import Any

from sslsv import registry
from sslsv.evaluation.arguments import run_command
from sslsv.settings import apply_overrides, build, command_name, leaves_of

PROJECTS = ("speechbrain", "wespeaker", "3dspeaker", "upstream")
SIZE = (0, 2)  # utterances and speakers of a corpus that does not exist; a classifier needs two speakers


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=command_name("import_encoder"), description="Make a run from another project's encoder."
    )
    add = parser.add_argument
    add("file", help="a checkpoint with the encoder's weights; nothing in it is executed")
    add("--from", dest="project", choices=PROJECTS, required=True, help="project that wrote the checkpoint")
    add("--out", required=True, metavar="RUN", help="the run folder, which must not hold a run yet")
    add("--part", metavar="NAME", help="which encoder, if the file has several, e.g. encoder_momentum")
    add("--labels", choices=("used", "unused"), help="whether training used labels (default: by project)")
    add("overrides", nargs="*", metavar="key=value", help="settings that the file does not contain")
    return run_command(run, parser.parse_intermixed_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Import the encoder and write the run; raises ValueError or OSError before anything is written."""
    from sslsv.encoders.peers import NoEncoderError, find_encoders, is_distilled
    from sslsv.runs.checkpoint import FOLDER, Checkpoint, write_checkpoint
    from sslsv.runs.folder import RunFolder
    from sslsv.training.initial import read_weights

    fixed = [key for key, _ in leaves_of(options.overrides) if key.startswith(("model", "encoder.init"))]
    if fixed:
        raise ValueError(f"{fixed[0]} is given, but FILE has weights and --labels sets the method; omit it")
    folder = RunFolder.at(options.out)
    if (kind := folder.kind()) or folder.names(FOLDER):
        raise ValueError(f"--out is {folder.location}, which holds a {kind or 'run'}; name another folder")
    if not os.path.isfile(options.file):
        raise FileNotFoundError(f"{options.file} is no file")
    try:
        tensors = read_weights(options.file)
    except ValueError as error:
        raise ValueError(
            f"{options.file} {error}; give safetensors, or dictionaries of tensors alone: other objects can "
            "run code, so save its state dict anew"
        ) from error
    encoder_classes = [registry.find("encoders", name) for name in registry.names("encoders")]
    candidates = [kind for kind in encoder_classes if options.project in kind.peer_names]
    try:
        encoders = find_encoders(tensors, options.project, candidates)
    except NoEncoderError as error:
        names = ", ".join(kind.Config().name for kind in candidates)
        sentence = f"{options.file} holds no encoder of {options.project} known here ({names}): {error}"
        raise ValueError(sentence) from error
    prefix = f"{options.part}." if options.part else next(iter(encoders))
    if prefix not in encoders or (len(encoders) > 1 and not options.part):
        parts = ", ".join(name.removesuffix(".") or "the whole" for name in encoders)
        raise ValueError(f"--part is {options.part}; name one of the encoders in {options.file}: {parts}")
    is_unlabelled = options.project == "upstream" or is_distilled(options.project, prefix)
    labels = options.labels or ("unused" if is_unlabelled else "used")
    config, model = build_run(encoders[prefix], labels == "used", folder.name, options.overrides)
    from sslsv.config import to_yaml
    from sslsv.runs.environment import describe_environment

    source = {"imported_from": options.project, "file": os.path.basename(options.file)}
    text, environment = to_yaml(config), describe_environment()
    weights = Checkpoint(config=text, model=model.state_dict(), corpus_size=SIZE, environment=environment)
    write_checkpoint(folder, weights)
    folder.write_json("run.json", environment | source)
    folder.write("config.yml", text.encode())
    count = sum(parameter.numel() for parameter in model.encoder.parameters())
    size = f"{count:,} parameters, {model.embedding_dim}-d embeddings, labels {labels}"
    features: Any = config.encoder.features
    print(f"{config.encoder.name}, {size}: {folder.location}")
    print(
        f"features: {features.num_mels} bands of {features.kind}, window {features.window}, normalisation "
        f"{features.normalization}, full scale {features.full_scale:g}"
    )
    return 0


def build_run(encoder: Any, is_labelled: bool, name: str, overrides: list[str]) -> tuple[Any, Any]:
    """Return the run's settings and its model with the weights that `peers.find_encoders` found."""
    from sslsv.build import build_model
    from sslsv.config import Config
    from sslsv.models.base import CorpusSize

    # The method only records whether labels were used. A classifier, if it has one, stays untrained.
    method = {"name": "supervised"} if is_labelled else {"name": "simclr", "projector_dims": []}
    config = build(Config, {"encoder": encoder.settings, "model": method, "run": {"name": name}})
    config = apply_overrides(config, overrides)
    model = build_model(config, CorpusSize(*SIZE))
    try:
        model.encoder.load_state_dict(encoder.weights)
    except RuntimeError as error:
        raise ValueError(f"the settings given make another encoder: {str(error)[:200]}") from error
    return config, model


if __name__ == "__main__":
    sys.exit(main())
