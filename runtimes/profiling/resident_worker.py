"""Worker that tells the memory of a stage's process before it holds a tensor."""

import json
import os
import sys

import torch
from torch import distributed

import runtimes.torch_pipeline.engine.stage  # noqa: F401 - what a stage has loaded counts
from runtimes.torch_pipeline.processes.host_memory import own_bytes


def main(text: str) -> None:
    """Start as a stage does and print the bytes it then takes: of the GPU, or else of memory.

    Args:
        text: the task as JSON: ``device``, ``threads``, and of a GPU the ``free_bytes`` before.
    """
    task = json.loads(text)
    device = torch.device(task["device"])
    torch.set_num_threads(task["threads"])
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    for dtype in (torch.float32, torch.bfloat16):  # libraries take memory at their first call
        weight = torch.zeros(64, 64, dtype=dtype, device=device)
        torch.nn.functional.linear(weight, weight)
    del weight
    taken = own_bytes()
    if device.type == "cuda":
        held = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        taken = task["free_bytes"] - held
    sys.stdout.write(json.dumps(taken) + "\n")
    sys.stdout.flush()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # threads of gloo may outlive the interpreter and abort it
