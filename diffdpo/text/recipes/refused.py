"""Settings of TRL, transformers and LLaMA-Factory that text training does not have, each with what
to write instead. Switched off, they ask for nothing and are accepted."""

from __future__ import annotations

LAUNCHER = "accelerate's own configuration says so: accelerate launch --config_file FILE"
SHARDS = (
    "weights in shares are FSDP2's: accelerate launch --config_file scripts/accelerate/fsdp2.yaml"
)
QUANTISED = "a reference by its own name is not quantised; leave it out"
ADAMW = "AdamW, its 8-bit and paged forms, Adafactor and RMSprop are there: --optim"
LORA = (
    "LoRA, rsLoRA, DoRA, PiSSA and all weights are there: --use_peft, --use_rslora, --use_dora,"
    " --init_lora_weights"
)
FROZEN = "layers are trained all, or by adapters on --lora_target_modules"
TRACKERS = "trackers are those of --report_to"
AFTER = "measuring is a command of its own: diffdpo evaluate_text"
TOKENS = "save tokenizer and longer model first, as docs/text.md shows, and name their folder"
PROCESSOR = "set it in the model's preprocessor_config.json, and name that folder"
SUPERVISED = "a loss of supervised training; the losses of preferences are in --loss_type"
HUBS = "download model and data first, and name their folders"
POSITIONS = "set it in the model's config.json, and name that folder"

OF_TRAINER = {
    "optim_args": "--adam_beta1, --adam_beta2, --adam_epsilon and --weight_decay are flags",
    "optim_target_modules": ADAMW,
    "label_smoothing_factor": "the share of labels believed flipped is --label_smoothing",
    "torch_compile_backend": "--torch_compile has no options; leave it out",
    "torch_compile_mode": "--torch_compile has no options; leave it out",
    "neftune_noise_alpha": "with noise in embeddings policy and reference differ from the start",
    "auto_find_batch_size": (
        "say --per_device_train_batch_size; with more --gradient_accumulation_steps a smaller one"
        " gives the same numbers"
    ),
    "eval_delay": "--eval_strategy and --eval_steps say when to measure",
    "trackio_space_id": TRACKERS,
    "trackio_bucket_id": TRACKERS,
    "trackio_static_space_id": TRACKERS,
    "ignore_data_skip": "a resumed run goes on with the rows that would have come next",
    "data_seed": "--seed gives the order of rows as well",
    "use_cpu": "accelerate launch --cpu, or ACCELERATE_USE_CPU=true",
    "accelerator_config": LAUNCHER,
    "parallelism_config": LAUNCHER,
    "fsdp": SHARDS,
    "fsdp_config": SHARDS,
    "deepspeed": SHARDS,
    "label_names": "the format names its columns; one of another name is --label_column",
    "debug": "leave it out",
    "do_predict": AFTER,
    "num_processes": "accelerate launch --num_processes N starts them",
    "accelerate_config": "accelerate launch --config_file FILE, as scripts/accelerate/fsdp2.yaml",
    "env": "variables of the environment are set in the shell",
}
OF_TRL = {
    "is_encoder_decoder": "models that only decode are trained; leave it out",
    "lora_target_parameters": "adapters go on layers: --lora_target_modules",
}
OF_LLAMA_FACTORY = {
    "create_new_adapter": "merge the adapter into its base first: diffdpo export --merge",
    "ref_model_quantization_bit": QUANTISED,
    "quantization_device_map": "weights are on the device of their process; leave it out",
    "resize_vocab": TOKENS,
    "add_tokens": TOKENS,
    "add_special_tokens": TOKENS,
    "rope_scaling": POSITIONS,
    "shift_attn": POSITIONS,
    "mixture_of_depths": POSITIONS,
    "pure_bf16": "trained weights are float32; write --bf16",
    "loraplus_lr_ratio": "both factors of an adapter have the rate --learning_rate",
    "oft_rank": LORA,
    "use_llama_pro": FROZEN,
    "freeze_extra_modules": FROZEN,
    "use_galore": ADAMW,
    "use_apollo": ADAMW,
    "use_badam": ADAMW,
    "use_muon": ADAMW,
    "use_adam_mini": ADAMW,
    "use_swanlab": TRACKERS,
    "packing": "pairs are not packed; leave it out",
    "neat_packing": "pairs are not packed; leave it out",
    "tool_format": "tools are written by the model's own chat template",
    "default_system": "write the system message into the rows",
    "disable_shuffling": "the order of rows is a function of --seed",
    "predict_with_generate": AFTER,
    "global_batch_size": "rows of a step are per_device_train_batch_size x"
    " gradient_accumulation_steps x processes; write the first two",
    "dp_size": "accelerate launch --num_processes N starts them",
    "mp_shard_size": SHARDS,
    "optim_config": ADAMW,
    "lr_scheduler_config": "--lr_scheduler_type names it, --lr_scheduler_kwargs has its arguments",
    "dcp_path": "weights are those of the model that is named",
    "save_epochs": "checkpoints come every --save_steps steps",
    "preserve_thinking": "earlier thoughts stand as the model's own chat template writes them",
    "freeze_language_model": "the language model is what is trained; leave it out",
    "adapter_folder": "write the whole path as adapter_name_or_path",
    "new_special_tokens_config": TOKENS,
    "train_from_scratch": "save a model with new weights first, and name its folder",
    "image_do_pan_and_scan": PROCESSOR,
    "crop_to_patches": PROCESSOR,
    "use_dft_loss": SUPERVISED,
    "use_asft_loss": SUPERVISED,
    "use_eaft_loss": SUPERVISED,
    "use_mca": SHARDS,
    "use_megatron_bridge": SHARDS,
    "use_hyper_parallel": SHARDS,
    "use_kt": "a base in few bits is --load_in_4bit or --base_precision",
    "fp8": "trained weights are float32; write --bf16, or --base_precision fp8 under a LoRA",
    "enable_torch_profiler": "leave it out",
    "ms_hub_token": HUBS,
    "om_hub_token": HUBS,
    "hf_hub_token": "a token is --hub_token, or HF_TOKEN in the environment",
}
REFUSED = {**OF_TRAINER, **OF_TRL, **OF_LLAMA_FACTORY}
