"""What the processes do that `test_checkpoints.py` limits and kills; light to import."""

import resource

import torch

from autotune.checkpoints import STATE, TENSORS, CheckpointStore
from autotune.manifest import MANIFEST

TOO_LARGE = {  # by the file that does not fit into the limit
    TENSORS: ({"w": torch.zeros(2**20)}, 2**20),
    STATE: ({"w": torch.zeros(1), "text": "x" * 2**20}, 2**20),
    MANIFEST: ({"w": torch.zeros(1)}, 200),
}


def save_where_it_does_not_fit(folder, file, connection):
    """In a process of its own: the limit counts for every file that it writes."""
    state, limit = TOO_LARGE[file]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    store = CheckpointStore(folder)
    try:
        store.save("two", 2, state)
    except OSError as error:
        store.load()  # the earlier one, without warning
        connection.send((str(error), [path.name for path in folder.iterdir()]))


def save_over_and_over(folder, step, connection):
    """Also replaces one of the same name, drops old ones, and keeps the best."""
    torch.set_num_threads(1)
    store = CheckpointStore(folder)
    while True:
        step += 1
        name = "latest" if step % 3 == 0 else f"step-{step}"
        tensors = {str(i): torch.full((50_000,), float(step)) for i in range(4)}
        store.save(name, step, {"tensors": tensors, "step": step}, score=(step * 7919) % 101)
        connection.send(step)
