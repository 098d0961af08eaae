"""Batches: rows under names, as a `TensorDict` and as the `DataProto` of the early versions."""

import numpy as np
import torch


class Rows(dict):
    """Fields of a batch; tensors have one row a response, what is no tensor belongs to the whole batch."""

    @property
    def batch_size(self):
        return torch.Size([next(len(value) for value in self.values() if isinstance(value, torch.Tensor))])

    def rows(self, chosen):
        return Rows({name: _rows(value, chosen, self.batch_size[0]) for name, value in self.items()})

    def split(self, size):
        return [self.rows(range(start, start + size)) for start in range(0, self.batch_size[0], size)]


def _rows(value, chosen, size):
    if isinstance(value, torch.Tensor):
        return value[list(chosen)]
    return [value[row] for row in chosen] if isinstance(value, list) and len(value) == size else value


class DataProto:
    def __init__(self, batch, non_tensor_batch=None, meta_info=None):
        self.batch = Rows(batch)
        self.non_tensor_batch = {name: np.array(value, object) for name, value in (non_tensor_batch or {}).items()}
        self.meta_info = dict(meta_info or {})

    def select(self, batch_keys=None, non_tensor_batch_keys=None):
        chosen = self.batch if batch_keys is None else {name: self.batch[name] for name in batch_keys}
        return DataProto(chosen, {name: self.non_tensor_batch[name] for name in non_tensor_batch_keys or ()})
