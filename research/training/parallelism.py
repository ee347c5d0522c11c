"""Spreads a step over devices: one program over a mesh, or replicas with explicit sums.

'jit': one program over a mesh of data x fsdp x tensor devices. Rows are split over data
and fsdp, parameters over fsdp and tensor by rules for their names, and XLA adds the
communication. 'pmap': every device has all parameters and its own rows; the step
gathers the batch's integers, corrupts the whole, keeps its rows and sums gradients. It
is `jax.shard_map` over one axis, which jax.pmap is made of: that cannot be compiled
ahead, and takes arrays of another shape on several hosts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from models.sharding import Placement
from objectives.base import Objective
from research.config import objective_section
from research.config.sections import ParallelConfig, RunConfig
from research.errors import UserError
from research.machine import mesh_devices
from research.training.partitioning import (
    DATA,
    FSDP,
    ROWS,
    TENSOR,
    param_spec,
    path_name,
)
from research.training.step import ONE_DEVICE, Distribution

# The one axis of 'pmap'.
REPLICAS = "replicas"


@dataclasses.dataclass(frozen=True)
class Parallel:
    """One way of sharing steps among devices.

    Attributes:
      mode: 'jit' or 'pmap'.
      mesh: over all devices of all hosts; abstract for plans.
    """

    mode: str
    mesh: Mesh | AbstractMesh

    @property
    def num_row_shards(self) -> int:
        """Number of parts that the rows of a batch are split into."""
        if self.mode == "pmap":
            return self.mesh.size
        return self.mesh.shape[DATA] * self.mesh.shape[FSDP]

    @property
    def replicated(self) -> NamedSharding:
        """Everything on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """The leading axis of a batch over the devices."""
        axes = (REPLICAS,) if self.mode == "pmap" else (ROWS,)
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def shardings(self, state: Any) -> Any:
        """The sharding of every leaf of a state, or of parameters.

        An optimizer's moments end in the name and have the shape of their parameter,
        so the same rules place them beside it.
        """
        if self.mode == "pmap":
            return jax.tree.map(lambda _: self.replicated, state)

        def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            spec = param_spec(path_name(path), leaf.shape, self.mesh)
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(sharding, state)

    @property
    def distribution(self) -> Distribution:
        """What a step of this mode does to be spread over the devices."""
        if self.mode == "pmap":
            return dataclasses.replace(
                ONE_DEVICE, gather=_all_gather, own=_own_rows, add=_psum
            )
        if self.mesh.size == 1:
            return ONE_DEVICE
        return dataclasses.replace(
            ONE_DEVICE,
            own=self._split_rows,
            place_params=self._place_params,
            placement=Placement(
                block=self._place_block, on_each_device=self._on_each_device
            ),
        )

    def _gathered(self, name: str, leaf: Any) -> Any:
        """A parameter as computations use it: gathered over fsdp, split over tensor."""
        spec = param_spec(name, leaf.shape, self.mesh)
        whole = PartitionSpec(*(axis if axis == TENSOR else None for axis in spec))
        if spec == whole:
            return leaf
        used, kept = (NamedSharding(self.mesh, s) for s in (whole, spec))
        # The gradient of a lookup is a scatter, which XLA would split by D like the
        # shards: a cheap exchange of activations where rows are split over fsdp alone,
        # on any other mesh a copy of all activations on every device.
        is_lookup = name.endswith("_embedding")
        first = used if is_lookup and self.mesh.shape[FSDP] < self.mesh.size else kept
        return _gather_parameter(leaf, used, (first, kept))

    def _place_block(self, params: Any, hidden: jax.Array) -> tuple[Any, jax.Array]:
        """A block's parameters gathered over fsdp, its input split by rows."""
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._gathered(path_name(path), leaf), params
        )
        return params, jax.lax.with_sharding_constraint(hidden, self.rows)

    def _on_each_device(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Rows split over data and fsdp, heads over tensor where it divides them all."""

        def split(*arrays: jax.Array) -> jax.Array:
            heads = [x.shape[2] for x in arrays if x.ndim == 4]
            divides = all(count % self.mesh.shape[TENSOR] == 0 for count in heads)
            by_head = PartitionSpec(ROWS, None, TENSOR if divides else None, None)
            by_row = PartitionSpec(ROWS, None)
            specs = tuple(by_head if x.ndim == 4 else by_row for x in arrays)
            mapped = jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=specs,
                out_specs=by_head,
                check_vma=False,
            )
            return mapped(*arrays)

        return split

    def _place_params(self, params: Any) -> Any:
        """Embeddings and heads gathered over fsdp; blocks gather their own."""

        def gather(path: tuple[Any, ...], leaf: Any) -> Any:
            name = path_name(path)
            return leaf if "/layers/" in name else self._gathered(name, leaf)

        return jax.tree_util.tree_map_with_path(gather, params)

    def _split_rows(self, example: Any) -> Any:
        """Tells XLA to keep the example's rows where the batch's rows are."""
        return jax.lax.with_sharding_constraint(
            example, jax.tree.map(lambda _: self.rows, example)
        )

    @property
    def host_part(self) -> tuple[int, tuple[int, ...]]:
        """(number of parts, those that this host reads) of the rows of every batch.

        A part is what one device or one tensor group takes. A mesh that follows the
        network of the devices can give a host any of them, and parts in common with
        other hosts where a tensor group crosses hosts.
        """
        parts = self.num_row_shards
        slices = self.rows.addressable_devices_indices_map((parts,)).values()
        own = {index[0].indices(parts)[0] for index in slices if index is not None}
        return parts, tuple(sorted(own))

    def place(self, batch: Any) -> Any:
        """This host's rows of a batch (numpy) to the devices, as one global batch.

        Args:
          batch: the rows of the parts of `host_part`, part after part.
        """
        num_parts, own = self.host_part

        def put(x: np.ndarray) -> jax.Array:
            parts = x.reshape(len(own), -1, *x.shape[1:])
            size = parts.shape[1]
            shape = (num_parts * size, *x.shape[1:])

            def part(index: Any) -> np.ndarray:
                return parts[own.index((index[0].start or 0) // size)]

            return jax.make_array_from_callback(shape, self.rows, part)

        # The one transfer that the loop is for; the guard is against all others.
        with jax.transfer_guard_host_to_device("allow"):
            return jax.tree.map(put, batch)

    def global_shapes(self, batch: Any) -> Any:
        """Shapes of the global batch that `place` makes of a whole batch's shapes."""

        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.rows), batch
        )

    def lower(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        row_arguments: tuple[int, ...],
        donate: tuple[int, ...] = (),
    ) -> jax.stages.Lowered:
        """A step for the shapes and shardings of its arguments, ready to compile.

        Args:
          function: the step.
          arguments: shapes with shardings; rows as `global_shapes` gives them.
          row_arguments: positions of the arguments that have an axis of rows.
          donate: positions of the arguments whose memory the outputs take over.

        Returns:
          The lowered step. Outputs that have the structure of a donated argument
          keep its shardings; all others are on every device.
        """
        if self.mode == "pmap":
            rows = PartitionSpec(REPLICAS)
            mapped = jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=tuple(
                    rows if i in row_arguments else PartitionSpec()
                    for i in range(len(arguments))
                ),
                out_specs=PartitionSpec(),
                check_vma=False,
            )
            return jax.jit(mapped, donate_argnums=donate).lower(*arguments)
        outputs = jax.eval_shape(function, *arguments)
        out_shardings = self._output_shardings(outputs, arguments, donate)
        jitted = jax.jit(function, donate_argnums=donate, out_shardings=out_shardings)
        return jitted.lower(*arguments)

    def _output_shardings(
        self, outputs: Any, arguments: tuple[Any, ...], donate: tuple[int, ...]
    ) -> Any:
        by_structure = {
            jax.tree.structure(arguments[i]): jax.tree.map(
                lambda x: x.sharding, arguments[i]
            )
            for i in donate
        }

        def shardings(output: Any) -> Any:
            everywhere = jax.tree.map(lambda _: self.replicated, output)
            return by_structure.get(jax.tree.structure(output), everywhere)

        if isinstance(outputs, tuple):
            return tuple(shardings(output) for output in outputs)
        return shardings(outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather_parameter(
    leaf: Any, used: NamedSharding, grad_shardings: tuple[NamedSharding, ...]
) -> Any:
    """The parameter as it is used; its gradient goes through `grad_shardings` in turn.

    The transpose of a plain constraint would sum the whole gradient on every device,
    where each needs the sum of its shard only.
    """
    del grad_shardings
    return jax.lax.with_sharding_constraint(leaf, used)


def _gather_forward(leaf, used, grad_shardings):
    return _gather_parameter(leaf, used, grad_shardings), None


def _gather_backward(used, grad_shardings, _, grad):
    del used
    for sharding in grad_shardings:
        grad = jax.lax.with_sharding_constraint(grad, sharding)
    return (grad,)


_gather_parameter.defvjp(_gather_forward, _gather_backward)


_all_gather = functools.partial(
    jax.lax.all_gather, axis_name=REPLICAS, axis=0, tiled=True
)
_psum = functools.partial(jax.lax.psum, axis_name=REPLICAS)


def _own_rows(example: Any) -> Any:
    count = jax.lax.axis_size(REPLICAS)
    index = jax.lax.axis_index(REPLICAS)

    def rows(x: jax.Array) -> jax.Array:
        size = x.shape[0] // count
        return jax.lax.dynamic_slice_in_dim(x, index * size, size)

    return jax.tree.map(rows, example)


def create(config: ParallelConfig, devices: list[jax.Device] | None = None) -> Parallel:
    """The mesh that the config asks for, over all devices of all hosts.

    Raises:
      UserError: if the axes do not divide the devices.
    """
    devices = jax.devices() if devices is None else devices
    if config.mode == "pmap":
        if config.data not in (-1, len(devices)):
            raise UserError(
                f"config.parallel.data = {config.data} in mode 'pmap' with "
                f"{len(devices)} devices: pmap uses all of them; set it to -1."
            )
        mesh = Mesh(np.asarray(devices), (REPLICAS,), axis_types=(AxisType.Auto,))
        return Parallel(mode=config.mode, mesh=mesh)
    shape = _mesh_shape(config, len(devices))
    mesh = Mesh(
        mesh_devices.arrange(devices, shape),
        (*ROWS, TENSOR),
        axis_types=(AxisType.Auto,) * 3,
    )
    return Parallel(mode=config.mode, mesh=mesh)


def one_device(device: jax.Device) -> Parallel:
    """No sharing at all."""
    alone = ParallelConfig(mode="jit", data=1, fsdp=1, tensor=1)
    return create(alone, [device])


def abstract(config: ParallelConfig, num_devices: int) -> Parallel:
    """The same mesh over devices that need not exist, for shapes and shardings.

    Raises:
      UserError: if the axes do not divide the devices.
    """
    if config.mode == "pmap":
        mesh = AbstractMesh((num_devices,), (REPLICAS,), axis_types=(AxisType.Auto,))
    else:
        shape = _mesh_shape(config, num_devices)
        mesh = AbstractMesh(shape, (*ROWS, TENSOR), axis_types=(AxisType.Auto,) * 3)
    return Parallel(mode=config.mode, mesh=mesh)


def _mesh_shape(config: ParallelConfig, count: int) -> tuple[int, int, int]:
    fixed = config.fsdp * config.tensor
    given = f"data = {config.data}, fsdp = {config.fsdp}, tensor = {config.tensor}"
    if config.data == -1:
        if count % fixed:
            raise UserError(
                f"config.parallel.fsdp * tensor = {config.fsdp} * {config.tensor} = "
                f"{fixed} does not divide the {count} devices there are: choose "
                f"divisors of {count}."
            )
        return count // fixed, config.fsdp, config.tensor
    if config.data * fixed != count:
        raise UserError(
            f"config.parallel asks for {given}, {config.data * fixed} devices in all, "
            f"and there are {count}: set data = -1 for all that are left over."
        )
    return config.data, config.fsdp, config.tensor


def check(config: RunConfig) -> None:
    """Refuses a config whose mesh or batches the devices cannot share.

    Raises:
      UserError: with every problem.
    """
    objective = objective_section.provisional(config)
    problems = batch_problems(config, objective, create(config.parallel))
    if problems:
        raise UserError("\n".join(problems))


def batch_problems(
    config: RunConfig, objective: Objective, parallel: Parallel
) -> list[str]:
    """Problems of batches that the devices cannot share evenly."""
    shards = parallel.num_row_shards
    train, problems = config.train, []
    parts = shards * train.num_microbatches
    if train.batch_size % parts:
        problems.append(
            f"config.train.batch_size = {train.batch_size} is not divisible by "
            f"num_microbatches = {train.num_microbatches} times {shards} devices that "
            f"rows are split over = {parts}: choose a multiple of {parts}."
        )
    if config.eval.batch_size % shards:
        problems.append(
            f"config.eval.batch_size = {config.eval.batch_size} is not divisible by the "
            f"{shards} devices that rows are split over: choose a multiple of {shards}."
        )
    shared = train.batch_size // parts
    if not problems and shared % objective.denominator:
        fitting = [n for n in range(2, shared + 1) if shared % n == 0]
        problems.append(
            f"config.objective deals rows out in shares over {objective.denominator}, "
            f"and each device and microbatch has {shared} rows: shares whose sum is one "
            f"of {', '.join(map(str, fitting)) or 'none'} fit, or a train.batch_size "
            f"that is a multiple of {parts * objective.denominator}."
        )
    return problems
