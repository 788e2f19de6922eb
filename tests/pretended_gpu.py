"""A GPU that is not there: tensors that say "cuda", with contents on the host.

Every operation runs on the host, but only where a GPU would take it: tensors of both devices in one
operation raise, as torch does, save where torch allows it (numbers without dimensions, indices,
copies). `numpy` and its like refuse what lies on the GPU. Whole plug-ins run on it, with what
depends on contents (choices, lengths, numbers read back) and with training: gradients are walked
back one by one here, as torch's engine wants a thread of the device.

What it does not see: kernels that only a GPU has (fused attention, cuDNN), their speed and memory,
and types that a host's kernel takes and a GPU's does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

GPU = torch.device("cuda", 0)
HOST = torch.device("cpu")
_aten = torch.ops.aten
#: operations that take tensors of both devices
_BETWEEN = {_aten.copy_.default, _aten._to_copy.default, _aten._local_scalar_dense.default}
#: operations whose indices may be on the host while what is read is not
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU.

    Attributes
    ----------
    held : tensor on the host, its contents
    """

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        """Wrap contents."""
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation outside of the block; see `_run`."""
        return _run(function, args, kwargs or {})

    def numpy(self, **_: Any) -> Any:
        """Refuse, as torch does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        """Contents, which torch copies to the host for it."""
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Save contents."""
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        """What it holds, and that it is on the GPU."""
        return f"OnGpu({self.held!r})"


class _Pretended(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the host, its results where a GPU would have left them."""
    tensors: list[torch.Tensor] = []

    def inner(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return value.held if isinstance(value, OnGpu) else value
        if isinstance(value, list | tuple):
            return type(value)(inner(each) for each in value)
        return value

    taken = [inner(each) for each in args]
    named = {name: inner(each) for name, each in kwargs.items()}
    place = _place(function, tensors, args, kwargs)
    if function is _aten._fused_sdp_choice.default:
        return 0  # attention as plain operations
    random = kwargs.get("generator")
    if random is not None and random.device.type != place.type:
        raise RuntimeError(
            f"Expected a '{place.type}' device type for generator but found '{random.device.type}'"
        )
    if "device" in named and place.type == "cuda":
        named["device"] = HOST
    named.pop("pin_memory", None)
    with unset_fake_temporarily():
        results = function(*taken, **named)
    if place.type != "cuda":
        return results
    same = {id(x.held): x for x in tensors if isinstance(x, OnGpu)}

    def outer(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return same[id(value)] if id(value) in same else OnGpu(value)
        if isinstance(value, list | tuple):
            return type(value)(outer(each) for each in value)
        return value

    return outer(results)


def _place(
    function: Any, tensors: Sequence[torch.Tensor], args: Any, kwargs: dict[str, Any]
) -> torch.device:
    """Where the results are.

    Raises
    ------
    RuntimeError
        Tensors are of both devices, and the operation does not take that.
    """
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    first = tensors[0].device if tensors else HOST
    if function in _BETWEEN:
        return first
    counted = [x.device for x in tensors if x.dim()] or [x.device for x in tensors]
    if function in _INDEXED and first.type == "cuda":
        indices = {id(x) for x in args[1] if x is not None}
        counted = [x.device for x in tensors if id(x) not in indices and x.dim()] or [first]
    kinds = {device.type for device in counted}
    if len(kinds) > 1 or (kinds == {"cpu"} and any(x.device.type == "cuda" for x in tensors)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {function} got "
            + ", ".join(f"{tuple(x.shape)} on {x.device.type}" for x in tensors)
        )
    return counted[0] if counted else HOST


_walks = 0  # back through graphs so far, by which recomputing tells one from another


def _walk(
    roots: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], inputs: Sequence[Any]
) -> list[torch.Tensor | None]:
    """Gradients of the edges ``inputs``, or, without any, of all leaves, in their ``grad``."""
    global _walks
    _walks += 1
    waiting = _arrivals([root.grad_fn for root in roots])
    arrived: dict[Any, dict[int, torch.Tensor]] = defaultdict(dict)
    kept: dict[Any, dict[int, torch.Tensor]] = {edge.node: {} for edge in inputs}

    def arrive(node: Any, number: int, gradient: torch.Tensor | None) -> None:
        if gradient is None:
            return
        meta = node._input_metadata[number]
        if gradient.device != meta.device:
            raise RuntimeError(f"{node.name()} is of {meta.device}, its gradient of the host")
        gradient = gradient.sum_to_size(tuple(meta.shape)).to(meta.dtype)
        before = arrived[node].get(number)
        arrived[node][number] = gradient if before is None else before + gradient

    with torch.no_grad():
        for root, gradient in zip(roots, gradients, strict=True):
            begin = torch.ones_like(root) if gradient is None else gradient
            arrive(root.grad_fn, root.output_nr, begin)
        ready = [node for node in {root.grad_fn for root in roots} if not waiting[node]]
        while ready:
            node = ready.pop()
            handed = arrived.pop(node, {})
            if node in kept:
                kept[node] = handed
            elif hasattr(node, "variable") and not inputs and handed:
                leaf = node.variable
                leaf.grad = handed[0] if leaf.grad is None else leaf.grad + handed[0]
            edges = [edge for edge in node.next_functions if edge[0] is not None]
            outputs = _passed(node, handed) if handed else [None] * len(edges)
            for (after, number), gradient in zip(edges, outputs, strict=True):
                arrive(after, number, gradient)
                waiting[after] -= 1
                if not waiting[after]:
                    ready.append(after)
    return [kept[edge.node].get(edge.output_nr) for edge in inputs]


def _arrivals(nodes: list[Any]) -> dict[Any, int]:
    """From how many places below these nodes each node gets gradients."""
    counts: dict[Any, int] = defaultdict(int)
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        after = [node for node, _ in node.next_functions if node is not None]
        for each in after:
            counts[each] += 1
        nodes += after
    return counts


def _passed(node: Any, handed: dict[int, torch.Tensor]) -> list[torch.Tensor | None]:
    """What a node of the graph makes of the gradients of its results, for each that takes some."""
    if hasattr(node, "variable"):
        return []
    gradients = [handed.get(i) for i in range(len(node._input_metadata))]
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # answers for numbers, too
        passed = _listed(node.apply(*gradients))
        return [x for x, needed in zip(passed, node.needs_input_grad, strict=True) if needed]
    passed = _listed(node(*gradients))
    return [x for x, (after, _) in zip(passed, node.next_functions, strict=True) if after]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _backward(roots: Any, gradients: Any = None, **_: Any) -> None:
    """As `torch.autograd.backward`."""
    rooted = _listed(roots)
    _walk(rooted, _listed(gradients) if gradients is not None else [None] * len(rooted), ())


def _grad(roots: Any, inputs: Any, gradients: Any = None, **_: Any) -> tuple[Any, ...]:
    """As `torch.autograd.grad`."""
    rooted = _listed(roots)
    edges = [torch.autograd.graph.get_gradient_edge(x) for x in _listed(inputs)]
    begins = _listed(gradients) if gradients is not None else [None] * len(rooted)
    return tuple(_walk(rooted, begins, edges))


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """A block in which device "cuda" is there."""

    def load(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():  # beside fake tensors it reads no contents
            return torch_load(*args, **kwargs)

    torch_load = torch.load
    with ExitStack() as stack:
        for name, value in (
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.cuda.is_bf16_supported", lambda *_: True),
            ("torch.inference_mode", torch.no_grad),  # wraps no views
            ("torch.Tensor.backward", _backward),
            ("torch._C._current_graph_task_id", lambda: _walks),
            ("torch.load", load),
            ("torch.autograd.backward", _backward),
            ("torch.autograd.grad", _grad),
        ):
            stack.enter_context(mock.patch(name, value))
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        overwrite = torch.__future__.set_overwrite_module_params_on_conversion
        stack.callback(overwrite, before)
        overwrite(True)  # a parameter's storage cannot be put into one of another kind
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        # its being there keeps torch from looking for a driver; nothing runs in it
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Pretended())
        yield
