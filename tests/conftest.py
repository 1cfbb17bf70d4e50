"""What holds for every test, and the models that tests of several rooms run."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llama_cpp import Llama
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase


def pytest_configure() -> None:
    """A job that runs in the background ignores interrupts; tests interrupt themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end, so the garbage collector needn't look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured costs go to a folder of this session, and so do those of its processes: never to the user's cache.

    Nor are a user's defaults read.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REASONCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("REASONCTL_CONFIG", "")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files that must outlast a power cut are synced line by line. No test cuts the power; a sync takes milliseconds.

    Tests of what is written when a sync fails bring a sync of their own.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def llm() -> Iterator[Llama]:
    """The bundled model, opened by llama-cpp-python itself."""
    from support.llama_models import open_llama

    made = open_llama()
    yield made
    made.close()


@pytest.fixture(scope="module")
def hf() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The bundled model and its tokenizer, opened by transformers itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from reasonctl.backends.load import tiny_folder

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder(), padding_side="left")
    return AutoModelForCausalLM.from_pretrained(tiny_folder()).eval(), tokenizer


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """A random transformers model of three layers."""
    import torch

    from support.hf_models import small

    torch.set_num_threads(1)
    return small()
