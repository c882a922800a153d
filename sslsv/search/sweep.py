"""A sweep as a whole: what is searched, what has happened, which leg comes next.  Knows no Ray."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from sslsv.config import Config, ConfigError, ResourcesConfig, to_dict, to_yaml
from sslsv.runs.environment import describe_environment
from sslsv.search.history import Decision
from sslsv.search.population import Population, copy_checkpoints
from sslsv.search.space import Space
from sslsv.search.suggestions import Suggester
from sslsv.search.sweep_folder import SweepFolder
from sslsv.search.trial_settings import trial_config

MAX_FAULTS = 3  # of storage or network, in a row over all trials, that halt a sweep: it goes on when mended


class ExecutionError(RuntimeError):
    """The sweep can't go on now, for a reason that the message tells; its files let it go on later."""


class Sweep:
    """Hands out legs, in an order that the files of the sweep alone determine; see `SweepFolder`.

    `base` holds the settings as they were asked for, `resources` what a trial takes of this machine.
    """

    def __init__(
        self,
        space: Space,
        base: Config,
        rungs: Sequence[int],
        folder: SweepFolder,
        resources: ResourcesConfig | None = None,
    ) -> None:
        self.space, self.base, self.rungs, self.folder = space, base, tuple(rungs), folder
        self.resources = resources or base.resources
        self.suggester = Suggester(space, to_dict(base))
        self.running: set[tuple[int, int]] = set()  # (trial, rung)
        self.halted: str | None = None  # why no leg begins any more, though there are legs to train
        self._faults = 0  # in a row
        # A power cut may have taken the end of records.jsonl.  A trial that goes on is collected then: what
        # it wrote after its last checkpoint comes again.
        going_on = {leg.index for leg in folder.history.open_legs()}
        for index in sorted(folder.suggestions.keys() - going_on):
            folder.collect(index)

    @property
    def num_trials(self) -> int:
        """How many trials the sweep has when it is complete."""
        return self.suggester.num_trials

    def config_of(self, index: int) -> Config:
        """All settings of a trial; raises ConfigError where they do not go together."""
        base = replace(self.base, resources=self.resources)
        return trial_config(base, self.space, self.folder.suggestions[index])

    def next_leg(self, at_once: int) -> Decision | None:
        """The next leg to train, now running; None while there is nothing to begin."""
        if len(self.running) >= at_once or self.halted is not None:
            return None
        leg = self._waiting_leg()
        if leg is None:
            self._decide(at_once)
            leg = self._waiting_leg()
        if leg is None:
            return None
        try:
            self._prepare_trial(leg.index)
        except ConfigError as error:  # each value is possible, as was checked, but not all of them together
            self.end_leg(leg, "failed", str(error))
            return self.next_leg(at_once)
        self.running.add((leg.index, leg.rung))
        return leg

    def end_leg(self, leg: Decision, state: str, why: str) -> None:
        """Note how a leg ended."""
        self.folder.add_outcome(leg.index, leg.rung, state, why)
        self.running.discard((leg.index, leg.rung))
        self._faults = 0

    def put_back(self, leg: Decision, why: str) -> None:
        """Let a leg begin again that a fault of the system ended, as of its storage; see `MAX_FAULTS`."""
        self.running.discard((leg.index, leg.rung))
        self._faults += 1
        if self._faults >= MAX_FAULTS:
            self.halted = (
                f"{self._faults} legs in a row could not go on, the last of trial {leg.index}: {why}"
            )

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, waits, or could be decided."""
        if self.running or self.folder.history.open_legs():
            return False
        rungs = len(self.rungs)
        return not self.space.scheduler.decide(self.folder.history, self.num_trials, rungs, at_once=1)

    def _waiting_leg(self) -> Decision | None:
        legs = self.folder.history.open_legs()
        return next((leg for leg in legs if (leg.index, leg.rung) not in self.running), None)

    def _decide(self, at_once: int) -> None:
        """Write down what follows from the history, suggestions first: no trial starts without one."""
        history, known = self.folder.history, self.folder.suggestions
        decisions = self.space.scheduler.decide(history, self.num_trials, len(self.rungs), at_once)
        for decision in decisions:
            if decision.action == "start" and decision.index not in known:
                settings = self.suggester.suggest(decision.index, known, history)
                self.folder.add_suggestion(decision.index, settings)
            if decision.source is not None:
                self._copy_trial(decision, decision.source)
        if decisions:
            self.folder.add_decisions(decisions)

    def _copy_trial(self, decision: Decision, source: int) -> None:
        """Give a trial the weights of another and changed settings; done twice it is as done once."""
        assert isinstance(self.space.scheduler, Population)
        seed = [self.space.seed, decision.index, decision.rung]
        settings = self.folder.suggestions[source]
        changed = self.suggester.change(settings, self.space.scheduler.factors, seed)
        if self.folder.settings_at(decision.index, decision.rung) != changed:
            self.folder.add_suggestion(decision.index, changed, decision.rung)
        copy_checkpoints(self.folder.trial_folder(source), self.folder.trial_folder(decision.index))

    def _prepare_trial(self, index: int) -> None:
        """Make the run folder of a trial, if it is not there."""
        folder = self.folder.trial_folder(index)
        if not folder.has("run.json"):
            identity = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "wandb_id": uuid.uuid4().hex[:12]}
            folder.write_json("run.json", identity | describe_environment())
        config = self.config_of(index)
        folder.write("config.yml", to_yaml(config).encode())
