"""Prints a plan as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import rich.box
from rich.console import Console
from rich.table import Table

from research.config.sections import RunConfig
from research.machine import terminal
from research.planning import compiled as compiled_lib
from research.planning import estimate
from research.planning import plan as plan_lib
from research.planning.compiled import Compiled
from research.planning.plan import TOKENS_PER_PARAM, UTILISATION, Plan
from research.training import memory, metrics
from research.training.memory import gib


def plan_and_show(
    config: RunConfig, *, device: str | None, num_devices: int | None, compile_too: bool
) -> None:
    """Plans a run as `plan.create` does, and prints the plan.

    With `compile_too`, also what XLA allocates for the compiled train step.
    """
    count = num_devices or plan_lib.fewest_devices(config.parallel)
    if compile_too:
        compiled_lib.make_up_devices(count)
    plan = plan_lib.create(config, device, count)
    compiled = compiled_lib.compile_step(config, count) if compile_too else None
    show(plan, compiled, terminal.console())


def show(plan: Plan, compiled: Compiled | None, console: Console) -> None:
    """Prints the plan; beside it what XLA allocates, if it was compiled."""
    console.print(_title(plan))
    console.print(_parameters(plan))
    console.print(_memory(plan))
    console.print(_speed(plan))
    for line in notes(plan):
        console.print(f"  {line}")
    if compiled is not None:
        console.print(f"  {compiled.line()}")


def _title(plan: Plan) -> str:
    model, mesh = plan.program.model_config, plan.program.parallel.mesh.shape
    split = ", ".join(f"{name} {size}" for name, size in mesh.items() if size > 1)
    return (
        f"[bold]{plan.program.objective.name}[/] on {model.architecture}, {model.dtype}, "
        f"remat {model.remat!r}\n"
        f"{plan.config.train.batch_size} rows of {plan.flops.tokens} tokens a step on "
        f"{plan.num_devices} x {plan.device.name}{f' ({split})' if split else ''}\n"
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", min_width=12)
    table.columns[0].min_width = 34
    return table


def _parameters(plan: Plan) -> Table:
    table = _table("parameters", ("part", "number", "share"))
    total = plan.num_params
    for part, count in plan.parameters.items():
        table.add_row(part, f"{count:,}", f"{count / total:.1%}")
    table.add_section()
    table.add_row("all", f"{total:,}", "")
    return table


def _memory(plan: Plan) -> Table:
    rows = estimate.rows_at_a_time(plan.program)
    table = _table(
        f"memory per device, {rows} rows at a time", ("kind", "size", "per parameter")
    )
    needed = plan.memory
    kinds = {
        "weights": needed.weights,
        f"optimizer ({plan.config.optimizer.name})": needed.optimizer,
        "gradients": needed.gradients,
        "gradients being summed over devices": needed.summed,
        "gathered parameters of blocks": needed.gathered,
        "activations kept for backward": needed.activations,
        "one block's backward, logits": needed.working,
    }
    for index, (kind, size) in enumerate(kinds.items()):
        if size:
            each = f"{size / plan.num_params:.2f} B" if index < 3 else ""
            table.add_row(kind, gib(size), each)
    table.add_section()
    table.add_row("all", gib(needed.total), "")
    table.add_row(f"usable on {plan.device.name}", gib(plan.usable), "")
    return table


def _speed(plan: Plan) -> Table:
    short, duration = metrics.short, metrics.duration
    per_second, tokens = plan.tokens_per_second, TOKENS_PER_PARAM * plan.num_params
    run = plan.config.train.num_train_steps * plan.tokens_per_step
    table = _table("computation", ("", "", ""))
    table.show_header = False
    table.add_row(
        "training FLOPs a token", f"{plan.flops.training / plan.flops.tokens:.3g}", ""
    )
    table.add_row("training FLOPs a step", f"{plan.flops_per_step:.3g}", "")
    table.add_row("a step", metrics.short_seconds(plan.step_seconds), "")
    table.add_row("clean tokens a second", short(per_second), "")
    table.add_row(
        f"the config's {plan.config.train.num_train_steps:,} steps",
        f"{short(run)} tokens",
        duration(run / per_second),
    )
    table.add_row(
        f"{TOKENS_PER_PARAM} tokens a parameter",
        f"{short(tokens)} tokens",
        duration(tokens / per_second),
    )
    table.add_row("largest batch that fits", f"{plan.largest_batch:,} rows", "")
    return table


def notes(plan: Plan) -> Iterator[str]:
    """What the numbers assume, and what to change if the batch does not fit."""
    device = plan.device
    share = UTILISATION[device.platform]
    if device.platform == "cpu":
        yield (
            f"times: at {share:.0%} of this machine's matrix products, just measured at "
            f"{device.flops * plan.num_devices / 1e9:.0f} GFLOP/s"
        )
    else:
        yield (
            f"times: expected, not measured: at {share:.0%} of {device.name}'s "
            f"{device.flops / 1e12:.0f} TFLOP/s in bfloat16"
        )
    if device.platform == "gpu":
        yield (
            f"usable: {plan.usable / device.memory:.0%} of {gib(device.memory)}, JAX's "
            f"share unless XLA_PYTHON_CLIENT_MEM_FRACTION sets another"
        )
        if plan.program.model_config.dtype == "float32":
            yield "float32 runs at half of that: --config.model.dtype=bfloat16"
    yield from plan.program.model_config.advice(device.platform)
    yield "activations are an estimate; --compile asks XLA"
    if plan.activations.undone:
        yield (
            f"remat={plan.program.model_config.remat!r} saves nothing on CPUs, where XLA "
            f"keeps all activations of layers in a loop: --config.model.scan_layers=True"
        )
    if plan.memory.total <= plan.usable:
        return
    parts = plan.fewest_microbatches
    if parts is None:
        yield f"[red]does not fit:[/] {memory.advice(plan.config)}"
    else:
        yield (
            f"[red]does not fit[/] as it is, but does with "
            f"--config.train.num_microbatches={parts}"
        )
