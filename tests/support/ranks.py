"""Processes that train together with gloo."""

import faulthandler
import multiprocessing
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raysde.config import loading
from raysde.runs.local import train_here
from raysde.runs.run import open_run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def entry(rank: int, world: int, port: int, work, arguments) -> None:
    faulthandler.enable()  # a crash of a rank prints the stack of each of its threads
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank)
    )
    try:
        work(rank, *arguments)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def on_ranks(world: int, work, *arguments) -> None:
    """Run ``work`` on each rank, in processes forked from one that has only imported modules."""
    multiprocessing.set_forkserver_preload([work.__module__])
    mp.start_processes(entry, (world, free_port(), work, arguments), nprocs=world, start_method="forkserver")


def train(rank: int, tree: dict) -> None:
    train_here(open_run(loading.parse_recipe(tree)), None)
