"""One measurement on an accelerator, in a process that has all of its memory.

    python -m research.benchmarks.worker SPEC

SPEC is JSON, see `Spec`; the last line printed is JSON as well. Two libraries that both
claim a GPU's memory cannot share a process, and running out of memory is an answer here
and no failure.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
OUT_OF_MEMORY = {"out_of_memory": True}
# Sizes of what is measured beside a step.
_MATRIX = 8192
_INPUT_STEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What to measure.

    Attributes:
      side: 'limits' (platform, device, rate of matrix products), 'ours' or 'peer'.
      experiment: whose objective is trained.
      changes: of its config.
      rounds: measurements.
      steps: optimizer steps of each.
      details: also time corruption and input of our side.
    """

    side: str
    experiment: str = ""
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    rounds: int = 3
    steps: int = 10
    details: bool = False


def run(spec: Spec, caches: pathlib.Path) -> dict[str, Any]:
    """Measures in a process of its own.

    Args:
      spec: what.
      caches: folder of compiled programs, so that only the first process compiles.

    Raises:
      RuntimeError: if the process failed for another reason than memory.
    """
    environment = os.environ | {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "JAX_COMPILATION_CACHE_DIR": str(caches / "xla"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if spec.side == "peer":
        # The config is read with our library, which must not take the GPU.
        environment["JAX_PLATFORMS"] = "cpu"
    text = json.dumps(dataclasses.asdict(spec))
    done = subprocess.run(
        [sys.executable, "-m", "research.benchmarks.worker", text],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    if is_out_of_memory(done.stderr):
        return OUT_OF_MEMORY
    raise RuntimeError(f"measuring {text} failed:\n{done.stderr[-3000:]}")


def is_out_of_memory(text: str) -> bool:
    """Whether an error's text is about a device's memory."""
    words = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "out of memory", "TooLittleMem")
    return any(word in text for word in words)


def limits(spec: Spec) -> dict[str, Any]:
    """What this machine's accelerator is, and its measured rate of matrix products."""
    del spec
    import jax

    from research.machine import timing

    device = jax.devices()[0]
    found = {"platform": device.platform, "kind": device.device_kind}
    if device.platform == "gpu":
        found["matrix_rate"] = timing.matmul_rate("bfloat16", size=_MATRIX, rounds=20)
    return found


def measure_ours(spec: Spec) -> dict[str, Any]:
    """Seconds of our step; with details those of corruption and waiting for input."""
    from research.benchmarks import ours

    mine = ours.Ours(spec.experiment, spec.changes)

    def corrupt(count: int) -> None:
        for _ in range(count):
            mine.corrupt()

    found: dict[str, Any] = {
        "seconds": _timed(mine.steps, spec),
        "tokens": mine.tokens,
        "flops": mine.flops,
    }
    if spec.details:
        found["corruption"] = min(_timed(corrupt, spec))
        found["input"] = mine.input_wait(_INPUT_STEPS)
    return found


def measure_peer(spec: Spec) -> dict[str, Any]:
    """Seconds of the peer's step on the same lengths and sizes."""
    from research.benchmarks import ours, peers
    from research.config import objective_section
    from research.config import parse as config_lib

    torch, _ = peers.libraries()
    run = config_lib.parse(ours.config_of(spec.experiment, spec.changes))
    lengths = objective_section.provisional(run).lengths
    on_gpu = torch.cuda.is_available()
    step = peers.make(run, lengths, on_gpu=on_gpu)

    def steps(count: int) -> None:
        for _ in range(count):
            step()
        if on_gpu:
            torch.cuda.synchronize()

    tokens = run.train.batch_size * run.data.row_length
    return {"seconds": _timed(steps, spec), "tokens": tokens}


def _timed(steps: Callable[[int], None], spec: Spec) -> list[float]:
    """Seconds of a step in each round, after a round that does not count."""
    from research.machine import timing

    rounds = {"": lambda: steps(spec.steps)}
    times = timing.alternate(rounds, rounds=spec.rounds, repeats=1, warmup=1)
    return [seconds / spec.steps for seconds in times[""].all]


SIDES = {"limits": limits, "ours": measure_ours, "peer": measure_peer}

if __name__ == "__main__":
    wanted = Spec(**json.loads(sys.argv[1]))
    print(json.dumps(SIDES[wanted.side](wanted)))
