"""How many training workers run, and when they start again: Ray Train's policies, with this project's rules.

Ray's own elastic policy takes any number of workers up to the most, also one that can't share the batch or
that leaves the data no CPU, starts them on machines about to be taken away, and resizes by killing workers
between two checkpoints.
"""

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ScalingDecision
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from sslsv.cluster.autoscaler import machines_to_come
from sslsv.cluster.capacity import Machine, fitting_data_tasks, fitting_workers
from sslsv.cluster.machines import all_machines, cpus_of, free_machines, free_what_the_dead_hold, with_added
from sslsv.cluster.worker import ask_to_stop
from sslsv.config import ResourcesConfig
from sslsv.runs.checkpoint import list_checkpoints
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import Board
from sslsv.training.interruption import Interrupted

SETTLING_SECONDS = 10.0  # until what the workers before held is free again
PAUSE_SECONDS = 0.5  # between two looks at the cluster; Ray's loop itself does not pause
REMINDER_SECONDS = 60.0  # between two sentences about what is waited for, doubled each time


class NoRoomError(RuntimeError):
    """No machines came back for the workers; the message is for the user."""


@dataclass(frozen=True)
class Rules:
    """What the policies must know of a run."""

    resources: ResourcesConfig
    counts: list[int]  # numbers of workers that share the batch equally, rising
    has_gpu: bool
    can_grow: bool  # an autoscaler may add machines: waiting for them has no end
    board: Board
    folder: RunFolder  # of the run


class ScalingPolicy(ElasticScalingPolicy):
    """As many workers as the machines that stay have room for, among the counts that share the batch."""

    def __init__(self, scaling_config: ScalingConfig, rules: Rules) -> None:
        super().__init__(scaling_config)
        self.rules = rules
        # What an autoscaler is asked for: room for each worker together with a data process of its own.
        resources = dict(scaling_config._resources_per_worker_not_none)
        resources["CPU"] += rules.resources.cpus_per_data_task
        self._wanted = replace(scaling_config, resources_per_worker=resources)
        self._last_look = float("-inf")
        self._held: list[tuple[str, Machine]] | None = []  # by the last workers: machine and what of it
        self._waits_since: float | None = None
        self._next_reminder = 0.0
        self._asked: tuple[int, set[str]] | None = None  # for so many workers, on these machines
        self._futile: tuple[int, set[str]] | None = None  # asked before, but they had no room after all

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start on what is free; after a moment also on fewer machines than are there.

        Raises NoRoomError when workers have found no place for too long.
        """
        self._maybe_send_resource_request()
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since, self._next_reminder = now, now + SETTLING_SECONDS
        waited = now - self._waits_since
        self._check_patience(waited)
        # The last workers hold their places until others are started.  Those that end before they were seen
        # leave it unknown what they hold: then Ray finds out.
        machines = all_machines() if self._held is None else with_added(free_machines(), self._held)
        count = self._fitting(machines)
        is_settled = waited >= SETTLING_SECONDS
        if count == 0 or (count < self._fitting(all_machines()) and not is_settled):
            self._remind(now, waited)
            free_what_the_dead_hold()
            time.sleep(PAUSE_SECONDS)
            return NoopDecision()
        if self._asked is not None and count < self._asked[0]:
            self._futile = self._asked
        self._last_look, self._held, self._asked = now, None, None
        return self._get_resize_decision(count)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Where more workers would fit, have the running ones save and stop: they start again as more."""
        self._maybe_send_resource_request()
        self._held = [(each.metadata.node_id, each.resources) for each in worker_group_state.workers]
        self._waits_since = None
        now, resources = time.monotonic(), self.rules.resources
        last = max(self._last_look, worker_group_state.start_time)
        if len(self.rules.counts) == 1 or self._asked or now - last < 60 * resources.resize_minutes:
            return NoopDecision()
        self._last_look = now
        running = worker_group_state.num_workers
        machines = with_added(free_machines(), self._held)
        # Their data processes give up their CPUs too.
        everything = cpus_of(all_machines())
        of_data = resources.cpus_per_data_task * fitting_data_tasks(resources, running, everything)
        count = self._fitting(machines, min(cpus_of(machines) + of_data, everything))
        if count > running and (count, set(machines)) != self._futile:
            self._asked = (count, set(machines))
            self.rules.board.notice(f"there is room for {count} training workers instead of {running}")
            for worker in worker_group_state.workers:
                worker.execute_async(ask_to_stop, f"{count} workers fit instead of {running}")
        return NoopDecision()

    def _maybe_send_resource_request(self) -> None:
        assert self._coordinator_client is not None
        self._coordinator_client.maybe_send_resource_request(self._wanted, self.rules.counts[-1])

    def _send_resource_request(self) -> None:
        assert self._coordinator_client is not None
        self._coordinator_client.send_resource_request(self._wanted, self.rules.counts[-1])

    def _fitting(self, machines: dict[str, Machine], cpus: float | None = None) -> int:
        rules, nodes = self.rules, list(machines.values())
        cpus = cpus_of(machines) if cpus is None else cpus
        return fitting_workers(rules.resources, rules.counts, rules.has_gpu, nodes, cpus)

    def _check_patience(self, waited: float) -> None:
        minutes = self.rules.resources.wait_minutes
        if waited > 60 * minutes and not self.rules.can_grow and machines_to_come() == 0:
            raise NoRoomError(
                f"there has been no {self._wanted_room()} for {minutes:g} minutes (resources.wait_minutes): "
                "machines were lost and none came back"
            )

    def _wanted_room(self) -> str:
        rules = self.rules
        return (
            f"room for {rules.counts[0]} training worker(s) with {rules.resources.cpus_per_worker:g} CPUs"
            f"{' and a GPU' if rules.has_gpu else ''} each, and for their data processes"
        )

    def _remind(self, now: float, waited: float) -> None:
        """Say what is waited for, ever more seldom."""
        rules = self.rules
        if now >= self._next_reminder:
            source = "the autoscaler adds machines" if rules.can_grow else "machines come back"
            rules.board.notice(f"waiting for {self._wanted_room()}, until {source} ({waited:.0f} s so far)")
            self._next_reminder = now + max(waited, REMINDER_SECONDS)


class FailurePolicy(DefaultFailurePolicy):
    """Workers that saved and stopped because they were asked to, or found no place, start again uncounted.

    Other failures count since the last new checkpoint: a week on machines that are lost now and then is no
    failure, the same crash at the same step is.
    """

    def __init__(self, failure_config: FailureConfig, folder: RunFolder) -> None:
        super().__init__(failure_config)
        self._folder = folder
        self._newest_step = -1  # of a checkpoint, at the last failure

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Whether to start the workers again."""
        causes = getattr(training_failed_error, "worker_failures", None) or {}
        if any(isinstance(cause, Interrupted) for cause in causes.values()):
            return FailureDecision.RETRY
        # A machine that has just died is believed alive for a while: the scaling policy says when to give up.
        if isinstance(
            getattr(training_failed_error, "controller_failure", None), WorkerGroupStartupTimeoutError
        ):
            return FailureDecision.RETRY
        if self._has_progressed():
            self._worker_group_failures = self._controller_failures = 0
        decision: FailureDecision = super().make_decision(training_failed_error)
        return decision

    def _has_progressed(self) -> bool:
        found: list[tuple[int, str]] = []
        with contextlib.suppress(OSError):  # storage that does not answer shows no progress
            found = list_checkpoints(self._folder)
        earlier, self._newest_step = self._newest_step, max([self._newest_step, *(step for step, _ in found)])
        return self._newest_step > earlier


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer with the policies above."""

    def __init__(self, *arguments: Any, rules: Rules, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._rules = rules

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        # mypy sees the trainer of Ray Train v1.
        named["scaling_policy"] = ScalingPolicy(self.scaling_config, self._rules)  # type: ignore[arg-type]
        named["failure_policy"] = FailurePolicy(
            self.run_config.failure_config,  # type: ignore[arg-type]
            self._rules.folder,
        )
        return super()._initialize_and_run_controller(**named)  # type: ignore[misc]
