"""Every internal of another library that this project relies on, in one table.

Libraries may change these without notice. Each has a test in tests/backends/test_hooks_*.py, which fails with the
hook's line of this table. Add a line here before you touch another internal.
"""

from __future__ import annotations

from dataclasses import dataclass

MADE_FOR = {"transformers": "5.23", "llama-cpp-python": "0.3.36", "xgrammar": "0.2.8"}
"""Versions that the hooks were written against, by distribution."""


@dataclass(frozen=True)
class Hook:
    """One internal of another library."""

    library: str
    """The distribution: a key of `MADE_FOR`."""
    name: str
    """As it is written in our file."""
    used_in: str
    """Our file, from backends/ on."""
    relied_on: str
    """What must stay true of it."""

    def broken_by(self, version: str) -> str:
        """The message of a failing test."""
        return (
            f"{self.library} {version} breaks the hook {self.name} of backends/{self.used_in}, "
            f"which was made for {MADE_FOR[self.library]}: {self.relied_on}"
        )


HOOKS = (
    Hook(
        "transformers",
        "_get_deprecated_gen_repo",
        "hf/attach.py",
        "generate() calls it first once it knows the mode, so that modes with a loop of their own are refused there",
    ),
    Hook(
        "transformers",
        "_sample",
        "hf/attach.py",
        "generate() runs it for greedy and sampled calls with prepared processors and criteria and returns its result",
    ),
    Hook("transformers", "_is_user_defined", "hf/rows.py", "generate() sets it on a cache that the user passed"),
    Hook(
        "transformers",
        "_mask_length",
        "hf/rows.py",
        "generate() keeps the length of a mask of ones there, and passes no mask on",
    ),
    Hook("transformers", "_pad_token_tensor", "hf/recorded.py", "generate() puts the padding token there"),
    Hook(
        "transformers",
        "EosTokenCriteria",
        "hf/criteria.py",
        "it and MaxLengthCriteria hold eos_token_id (a tensor) and max_length",
    ),
    Hook(
        "transformers",
        "_supports_default_dynamic_cache",
        "hf/forward.py",
        "a class method that is true of models whose cache is a DynamicCache",
    ),
    Hook(
        "transformers",
        "conv_states",
        "hf/states.py",
        "a LinearAttentionCacheLayerMixin has its states in this dictionary and in recurrent_states, written in place",
    ),
    Hook("transformers", "is_backend_compatible", "hf/forward.py", "true of classes that call AttentionInterface"),
    Hook(
        "transformers",
        "activate_past_recording",
        "hf/states.py",
        "a sliding layer keeps all of its past from then on",
    ),
    Hook(
        "transformers",
        "cumulative_length",
        "hf/states.py",
        "a sliding layer is its keys, its values and this number of tokens",
    ),
    Hook(
        "transformers",
        "_attn_implementation",
        "hf/attention.py",
        "changing it switches the attention of the next forward to another registered function",
    ),
    Hook(
        "transformers",
        "_prefill",
        "hf/prefill.py",
        "feeds a prepared prompt, pictures included; _update_model_kwargs_for_generation and "
        "prepare_inputs_for_generation then give the arguments of the next step, its positions among them",
    ),
    Hook(
        "transformers",
        "prepare_inputs_for_generation",
        "hf/forward.py",
        "with next_sequence_length it gives the last tokens alone, except for models that read the whole text",
    ),
    Hook("transformers", "GradientCheckpointingLayer", "hf/forward.py", "the base class of a decoder's blocks"),
    Hook(
        "transformers",
        "altup_active_idx",
        "hf/forward.py",
        "of the streams that a Gemma 3n block gives, shape (streams, batch, tokens, width), the computed one",
    ),
    Hook(
        "transformers",
        "_prefix_allowed_tokens_fn",
        "hf/processors.py",
        "processors keep what differs by row under these names: also prompt_ignore_length, encoder_input_ids, "
        "batch_size, generated_ngrams",
    ),
    Hook(
        "transformers",
        "backend_tokenizer",
        "hf/tokenizer.py",
        "its decoder's text names ByteLevel or WordPiece; added_tokens_decoder has the added tokens",
    ),
    Hook(
        "llama-cpp-python",
        "_create_completion",
        "llama/attach.py",
        "every completion and chat call runs it through the instance",
    ),
    Hook(
        "llama-cpp-python",
        "generate",
        "llama/attach.py",
        "_create_completion calls it through the instance in its first step, with the arguments of sampling.DEFAULTS",
    ),
    Hook(
        "llama-cpp-python",
        "_requires_eval",
        "llama/attach.py",
        "with n_tokens and input_ids it is the Llama's record of its cache",
    ),
    Hook("llama-cpp-python", "_seed", "llama/attach.py", "the seed that the library has set for the running call"),
    Hook(
        "llama-cpp-python",
        "MinTokensLogitsProcessor",
        "llama/sampling.py",
        "the library's own processors are this class and the function logit_bias_processor of llama_cpp.llama",
    ),
    Hook("llama-cpp-python", "_grammar", "llama/grammar.py", "a LlamaGrammar's text; _root is its first rule"),
    Hook("llama-cpp-python", "_model", "llama/tokenizer.py", "the model's vocab, vocab_type and tokenize"),
    Hook(
        "llama-cpp-python",
        "_internals.LlamaContext",
        "llama/native.py",
        "it makes a context of model, params and verbose; a Llama keeps its own in _ctx, whose ctx is None once closed",
    ),
    Hook(
        "llama-cpp-python",
        "_exit_stack",
        "llama/native.py",
        "a context puts its close on its model's ExitStack, whose _exit_callbacks are pairs with a __wrapped__",
    ),
    Hook(
        "llama-cpp-python",
        "_lora_adapter",
        "llama/native.py",
        "a Llama's adapter, with lora_scale, which a new context must be given",
    ),
    Hook(
        "llama-cpp-python",
        "llama_get_logits_ith",
        "llama/native.py",
        "C._lib has its own handle of it, whose types may be set without changing the library's",
    ),
    Hook(
        "llama-cpp-python",
        "llama_batch",
        "llama/native.py",
        "its fields are token, pos, n_seq_id, seq_id and logits, with n_tokens before them",
    ),
    Hook(
        "llama-cpp-python",
        "l_out-",
        "llama/native.py",
        "block outputs have this name in the graph, cb_eval sees them, and libggml-base lies in llama_cpp/lib",
    ),
    Hook(
        "llama-cpp-python",
        "llama_memory_seq_cp",
        "llama/sequences.py",
        "a sequence that shares a state or a cell of a window goes on elsewhere, so that the other one stays as it is",
    ),
    Hook(
        "llama-cpp-python",
        "llama_state_seq_set_data_ext",
        "llama/sequences.py",
        "with LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY it replaces a sequence's states and windows, and leaves the rest",
    ),
    Hook(
        "llama-cpp-python",
        "llama_model_default_params",
        "llama/load.py",
        "Llama() calls it through the module, and use_extra_bufts = False keeps AMX kernels away",
    ),
    Hook(
        "llama-cpp-python",
        "llama_n_rs_seq",
        "llama/native.py",
        "a context says how many past states it keeps, 0 where its architecture can't; seq_rm goes back to one of them",
    ),
    Hook(
        "llama-cpp-python",
        "llama_log_get",
        "llama/native.py",
        "with llama_log_set it takes and gives back the log's callback; the library prints warnings as errors",
    ),
    Hook(
        "xgrammar",
        "fill_next_token_bitmask",
        "grammar.py",
        "32 tokens a word, little-endian; errors are RuntimeErrors that begin with a time and a place",
    ),
)
