"""Flags of other programs that change nothing in text training, each with the reason."""

from __future__ import annotations

CUT = "the prompt keeps its room within --max_length, and completions have what it leaves"
DTYPE = "weights that are trained are float32; frozen ones take the type of --mixed_precision"
EVERY_STEP = "every step is logged"

INERT = {
    "local_rank": "the launcher's environment says which process this is",
    "lora_dropout": (
        "dropout is off: policy and reference must be the same function before the first step"
    ),
    "disable_dropout": "dropout is always off",
    "dtype": DTYPE,
    "torch_dtype": DTYPE,
    "max_prompt_length": CUT,
    "max_completion_length": CUT,
    "remove_unused_columns": "columns that no format names are not read",
    "save_strategy": "checkpoints come every --save_steps steps",
    "logging_strategy": EVERY_STEP,
    "logging_first_step": EVERY_STEP,
    "log_level": "errors and warnings are always shown",
    "use_liger_kernel": "the output head sees the completion tokens alone as it is",
    "padding_free": "rows of like length are read together, with 5 % padding at most",
    "pad_to_multiple_of": "rows are padded to the longest that is read with them",
    "pad_token": "padding is neither attended to nor scored, so any token will do",
    "precompute_ref_batch_size": "the training batch size is used",
    "gradient_checkpointing_kwargs": "the non-reentrant form is used",
    "ddp_find_unused_parameters": "every trained weight is used in every step",
    "ddp_timeout": "the launcher's is used",
    "lora_task_type": "the model is a causal language model",
    "do_train": "training is what this command does",
    "do_eval": "--eval_strategy says when to measure",
    "overwrite_output_dir": (
        "a folder that holds another run is never written over; --resume_from_checkpoint goes on"
    ),
    "overwrite_cache": "what is stored is told apart by its content",
    "run_name": "a run is called by its folder",
    "plot_loss": "metrics.jsonl holds every step",
}
