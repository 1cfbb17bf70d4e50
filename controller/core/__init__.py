"""The words that everyone speaks: a Decode asks for a forward, a Step answers, a Session is one sequence.

Read `decode.py` first. A Draft is a tree of proposed tokens; a Trace records. Nothing here imports another room.
"""

from .decode import UNLIMITED, Floats, Memory, SparseSession, common_prefix
from .folders import cache_folder
from .forked import Answer, ForkedCalls, answer_forever
from .json_text import Fields, file_name, lines, parse, raw_lines, read_bytes
from .memory import check_cache, check_memory
from .plugins import PLUGIN_KINDS, Plugin, PluginKind, find_plugin, installed, plugin_names
from .probability import log_prob, softmax
from .run_file import SavedRun, append_runs, read_runs
from .text_form import split_top
from .token_text import TextDecoder
from .tokenizer import Kind, Matcher, vocabulary_hash

__all__ = [
    "Answer",
    "Fields",
    "ForkedCalls",
    "Floats",
    "Kind",
    "Matcher",
    "Memory",
    "PLUGIN_KINDS",
    "Plugin",
    "PluginKind",
    "SavedRun",
    "SparseSession",
    "TextDecoder",
    "UNLIMITED",
    "append_runs",
    "answer_forever",
    "cache_folder",
    "check_cache",
    "check_memory",
    "common_prefix",
    "file_name",
    "find_plugin",
    "installed",
    "lines",
    "log_prob",
    "parse",
    "plugin_names",
    "raw_lines",
    "read_bytes",
    "read_runs",
    "softmax",
    "split_top",
    "vocabulary_hash",
]
