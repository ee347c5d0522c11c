"""Parameters, memory, FLOPs and time of a run, computed from its config."""

from __future__ import annotations

import bisect
import dataclasses

from research.config import checks
from research.config.sections import ParallelConfig, RunConfig
from research.machine.devices import Device
from research.planning import activations, estimate, target
from research.planning.activations import Activations
from research.planning.estimate import Memory
from research.training import checkpoints, flops, parallelism
from research.training import program as program_lib
from research.training.flops import Flops
from research.training.program import Program

# Hoffmann et al. 2022, 'Chinchilla': compute-optimal tokens a parameter.
TOKENS_PER_PARAM = 20

# Share of the peak rate of matrix products that a step is expected to reach: what the
# benchmarks aim at on accelerators, what they measure on CPUs.
UTILISATION = {"gpu": 0.5, "tpu": 0.5, "cpu": 0.65}
# Matrix products of float32 on GPUs run as TF32, at half of bfloat16's rate.
_FLOAT32_RATE = {"gpu": 0.5, "tpu": 1.0, "cpu": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a run needs on devices of one kind.

    Attributes:
      program: over an abstract mesh.
      device: of the mesh.
      flops: of one row.
      executed: FLOPs of one row with what rematerialisation computes again.
      activations: on one device.
      memory: of the train step on one device.
      usable: bytes of a device that programs may have.
    """

    program: Program
    device: Device
    flops: Flops
    executed: float
    activations: Activations
    memory: Memory
    usable: float

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        return self.program.config

    @property
    def num_devices(self) -> int:
        """Devices of the mesh."""
        return self.program.parallel.mesh.size

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of each part, see `part_name`."""
        counts: dict[str, int] = {}
        for name, leaf in checkpoints.flatten(self.program.weights).items():
            part = part_name(name)
            counts[part] = counts.get(part, 0) + leaf.size
        return counts

    @property
    def num_params(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def tokens_per_step(self) -> int:
        """Clean tokens of an optimizer step."""
        return self.config.train.batch_size * self.flops.tokens

    @property
    def flops_per_step(self) -> float:
        """Training FLOPs of an optimizer step, those actually needed."""
        return self.config.train.batch_size * self.flops.training

    @property
    def step_seconds(self) -> float:
        """Matrix products at the expected utilisation, and the optimizer's traffic."""
        device = self.device
        needed = self.config.train.batch_size * self.executed
        rate = device.flops * UTILISATION[device.platform]
        if self.program.model_config.dtype == "float32":
            rate *= _FLOAT32_RATE[device.platform]
        # Weights, moments and gradients are read and written once.
        traffic = 2 * self.memory.exact / device.bandwidth
        return needed / (self.num_devices * rate) + traffic

    @property
    def tokens_per_second(self) -> float:
        """Clean tokens a second of all devices."""
        return self.tokens_per_step / self.step_seconds

    @property
    def largest_rows(self) -> int:
        """Rows that fit on one device at a time; 0 if none."""

        def is_too_much(rows: int) -> bool:
            needed = estimate.estimate(self.program, self.activations, rows)
            return needed.total > self.usable

        return bisect.bisect_left(range(1, 2**24), True, key=is_too_much)

    @property
    def largest_batch(self) -> int:
        """Rows of the largest batch without microbatches."""
        return self.largest_rows * self.program.parallel.num_row_shards

    @property
    def fewest_microbatches(self) -> int | None:
        """Parts in which the config's batch fits; None if not even row by row."""
        rows = self.config.train.batch_size // self.program.parallel.num_row_shards
        parts = (m for m in range(1, rows + 1) if rows % m == 0)
        return next((m for m in parts if rows // m <= self.largest_rows), None)


def part_name(parameter: str) -> str:
    """The part of a network that a parameter is counted to.

    model/stack/layers/0/attention/query/kernel -> attention
    model/stack/final_norm/scale -> final norm
    model/token_embedding -> token embedding
    heads/masked_lm/output/bias -> heads
    """
    network, *names = parameter.split("/")
    if network != "model":
        return network
    if "layers" in names:
        below = names[names.index("layers") + 1 :]
        part = next(name for name in below if not name.isdigit())
    else:
        part = names[-2] if names[-1] in ("kernel", "bias", "scale") else names[-1]
    return part.replace("_", " ")


def create(config: RunConfig, device: str | None, num_devices: int | None) -> Plan:
    """The plan of a config; nothing is computed or allocated but this machine's speed.

    Args:
      config: of the run.
      device: a name that `target.find` knows.
      num_devices: None = the fewest that `config.parallel` asks for.

    Raises:
      UserError: if mesh, batch, model and devices do not fit each other.
    """
    count = fewest_devices(config.parallel) if num_devices is None else num_devices
    program = program_lib.create(
        config,
        checks.provisional_vocabulary(config.data.tokenizer),
        parallel=parallelism.abstract(config.parallel, count),
    )
    found = target.find(device, dtype=program.model_config.dtype, count=count)
    kept = activations.count(program, found.platform)
    counted = (program.model_config, program.objective, config.train.trainable)
    return Plan(
        program=program,
        device=found,
        flops=flops.count(*counted),
        executed=flops.executed(*counted),
        activations=kept,
        memory=estimate.estimate(program, kept),
        usable=target.usable_bytes(found),
    )


def fewest_devices(parallel: ParallelConfig) -> int:
    """Devices of the smallest mesh that the config allows."""
    return max(parallel.data, 1) * parallel.fsdp * parallel.tensor
