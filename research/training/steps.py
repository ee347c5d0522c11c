"""Compiles the steps of a run, each once, in a thread of its own."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax

from objectives.base import Objective
from research.training import memory
from research.training.program import Program


def compile_train_step(program: Program, objective: Objective) -> Callable[..., Any]:
    """The compiled train step of an objective of the run; the state is donated.

    Raises:
      TooLittleMemory: if a device has too little for it.
    """
    there_is = memory.device_bytes(jax.local_devices()[0])
    advice = memory.advice(program.config)
    if there_is is not None:
        memory.check(program.weights, program.state, there_is, advice)
    with memory.explained("the step", advice):
        compiled = program.lower_train_step(objective).compile()
    memory.check_compiled(compiled, "the compiled step", advice)
    return compiled


def compile_eval_step(program: Program) -> Callable[..., Any]:
    """The compiled evaluation step; see `training.step.EvalStep`.

    Raises:
      TooLittleMemory: if a device has too little for it beside the optimizer.
    """
    advice = memory.evaluation_advice(program.config)
    with memory.explained("the evaluation", advice):
        compiled = program.lower_eval_step().compile()
    moments = memory.shard_bytes(program.state.opt_state)
    memory.check_compiled(compiled, "an evaluation", advice, beside=moments)
    return compiled


class Steps:
    """The compiled steps of a run, each compiled once.

    Compiling runs in a thread of its own: the first train step while parameters are
    initialised or restored, the evaluation step and those of later phases while the
    first steps train.
    """

    def __init__(self, program: Program, first_step: int):
        self._program = program
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "compile")
        self._train: dict[Objective, concurrent.futures.Future] = {}
        self._submit(first_step)
        self._evaluation = self._pool.submit(compile_eval_step, program)
        for step_number in program.objective.switches:
            if step_number > first_step:
                self._submit(step_number)

    def _submit(self, step_number: int) -> None:
        objective = self._program.objective.at(step_number)
        if objective not in self._train:
            self._train[objective] = self._pool.submit(
                compile_train_step, self._program, objective
            )

    def train(self, step_number: int) -> Callable[..., Any]:
        """The compiled step for a step number.

        Raises:
          TooLittleMemory: for it, or for another step as soon as that is known.
        """
        for ahead in (self._evaluation, *self._train.values()):
            if ahead.done():
                ahead.result()
        return self._train[self._program.objective.at(step_number)].result()

    def evaluation(self) -> Callable[..., Any]:
        """The compiled evaluation step."""
        return self._evaluation.result()

    def peak_bytes(self) -> int | None:
        """Largest memory of the train steps so far, on one device; None if unknown."""
        compiled = (step for step in self._train.values() if step.done())
        sizes = [memory.allocated_bytes(step.result()) for step in compiled]
        return max((size for size in sizes if size is not None), default=None)

    def close(self) -> None:
        """Lets the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
