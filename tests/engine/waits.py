"""What makes the host wait for a device: numbers that are read back, and copies from ordinary
memory."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
READS = {
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero",
    "aten::masked_select", "aten::_unique2", "aten::unique_consecutive",
}  # fmt: skip
# Functions that make a tensor on the device of numbers of the host.
MADE = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}
READ = {torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy,
        torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__}  # fmt: skip


class Waits(AssertionError):
    """An operation for which the host would wait."""


class Operations(TorchDispatchMode):
    """Refuses operations that read a number of the device, and copies between devices that are
    waited for; counts those that are not."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function._schema.name
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = any(x.device == META for x in tensors)
        if on_device and name in READS:
            raise Waits(name)
        if on_device and name in ("aten::index", "aten::index_put_", "aten::index_put"):
            for index in args[1]:
                if index is not None and (index.dtype == torch.bool or index.device != META):
                    raise Waits(f"{name} by {index.dtype} on {index.device}")
        if name in ("aten::_to_copy", "aten::copy_"):
            to = args[0].device if name == "aten::copy_" else kwargs.get("device")
            source = tensors[-1 if name == "aten::copy_" else 0]
            if to is not None and torch.device(to) != source.device:
                if not kwargs.get("non_blocking", len(args) > 2 and args[2]):
                    raise Waits(f"{name} from {source.device} to {to}")
                self.copies.append(tuple(source.shape))
        return function(*args, **kwargs)


class Calls(TorchFunctionMode):
    """Refuses calls by which numbers come from the host or go there, which are no operations."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if function in READ and tensor is not None and tensor.device == META:
            raise Waits(function.__name__)
        device = kwargs.get("device")
        if function is torch.Tensor.new_tensor and device is None:
            device, tensor = tensor.device, None
        if function is torch.Tensor.__getitem__ and tensor.device == META:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(one, list) for one in index):
                raise Waits("a list as index")
        made = function in MADE and tensor is None and device is not None
        if made and torch.device(device) == META:
            raise Waits(function.__name__)
        return function(*args, **kwargs)
